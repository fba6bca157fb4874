"""Cross-check of a submission with the official evaluator's own reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.submission.check_zip import Problem, rejection
from cellmap_pipeline.submission.official_toolbox import (
    MANIFEST,
    ZIP,
    run_toolbox,
    work_in_process,
)


def check_officially(path: str | Path, manifest: Sequence[CropLabel]) -> list[Problem]:
    """Report where the official reader fails, or reads other voxels than this package.

    It raises as `run_toolbox`.

    Parameters
    ----------
    path
        Path of the zip; it is unpacked in a temporary folder next to it.
    manifest
        Labels to read.
    """
    module = "cellmap_pipeline.submission.official_reader"
    failures = run_toolbox(module, path, manifest, part="reader")
    return [rejection(**failure) for failure in failures]


def _read_all(folder: Path) -> list[dict[str, Any]]:
    """Unpack and read as the evaluator does; return failures as arguments of `rejection`."""
    # Imported only in this process: the import takes long and configures logging.
    from cellmap_segmentation_challenge.utils.eval_utils import submission

    failures: list[dict[str, Any]] = []
    manifest = read_manifest(folder / MANIFEST)
    try:
        unpacked = Path(submission._prepare_submission(str(folder / ZIP)))
    except Exception as error:
        return [{"message": f"the official reader stops at the zip: {error}"}]
    for row in manifest:
        crop = f"crop{row.crop}"
        path = next((p for p in (unpacked / crop, unpacked / str(row.crop)) if p.is_dir()), None)
        if path is None:
            continue
        place = {"crop": crop, "label": row.label}
        try:
            if row.label in set(submission.ensure_zgroup(_upath(path)).array_keys()):
                message = _difference(path / row.label, row, folder / ZIP, path.name)
                failures += [{"message": message} | place] if message else []
        except Exception as error:
            # The evaluator would stop at any exception.
            message = f"the official reader stops: {type(error).__name__}: {error}"
            failures.append({"message": message} | place)
    return failures


def _upath(path: Path) -> Any:
    from upath import UPath

    return UPath(path)


def _difference(path: Path, row: CropLabel, archive: Path, crop: str) -> str | None:
    """Message if the official reader reads other voxels than this package, else None."""
    import numpy as np
    from cellmap_segmentation_challenge.utils.eval_utils import match_crop_space

    from cellmap_pipeline.classes import is_instance
    from cellmap_pipeline.scoring.archive import Archive
    from cellmap_pipeline.scoring.slabs import slabs
    from cellmap_pipeline.scoring.submission import place_array

    grid = row.grid
    theirs = match_crop_space(str(path), row.label, grid.voxel_size, grid.shape, grid.translation)
    ours = place_array(Archive.open(archive).array(crop, row.label), grid, is_instance(row.label))
    equal_nan = theirs.dtype.kind == "f"
    if theirs.dtype == ours.dtype and all(
        np.array_equal(a, b, equal_nan=equal_nan) for a, b in slabs(ours, theirs)
    ):
        return None
    return (
        "the official reader reads other voxels than this package: please report this bug with "
        "the zip"
    )


if __name__ == "__main__":
    work_in_process(_read_all)
