"""Cross-check of a submission with the official evaluator's own reader.

The toolbox (cellmap-segmentation-challenge, not on PyPI) is optional. It runs in a separate
process, because it configures logging globally, unpacks the zip next to it or takes a stale folder
from there, and when imported overwrites its manifest with the one downloaded from a URL. So it gets
a private copy of the zip in an empty folder, and its own manifest as the URL.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import read_manifest, toolbox_manifest, write_manifest
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.submission.check_zip import Problem, rejection

TOOLBOX = "cellmap_segmentation_challenge"
MANIFEST_URL = "CSC_TEST_CROP_MANIFEST_URL"
SOURCE_FOLDER = Path(__file__).resolve().parents[2]
ZIP, MANIFEST, RESULT = "submission.zip", "manifest.csv", "result.json"


def check_officially(path: str | Path, manifest: Sequence[CropLabel]) -> list[Problem]:
    """Report where the official reader fails, or reads other voxels than this package.

    Parameters
    ----------
    path
        Path of the zip; it is unpacked in a temporary folder next to it.
    manifest
        Labels to read.

    Raises
    ------
    InputError
        The toolbox is not installed, or does not run.
    """
    if importlib.util.find_spec(TOOLBOX) is None:
        raise InputError(
            "the official toolbox (cellmap-segmentation-challenge) is not installed, so its "
            "reader was not run: install it from "
            "https://github.com/janelia-cellmap/cellmap-segmentation-challenge, or omit "
            "--official"
        )
    path = Path(path).resolve()
    # The disk of the zip had room for it, and allows a hard link to it.
    parent = path.parent if os.access(path.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".official-", dir=parent) as name:
        folder = Path(name)
        try:
            os.link(path, folder / ZIP)
        except OSError:
            shutil.copyfile(path, folder / ZIP)
        write_manifest(manifest, folder / MANIFEST)
        environment = os.environ | {
            MANIFEST_URL: str(toolbox_manifest()),
            "PYTHONPATH": os.pathsep.join([str(SOURCE_FOLDER), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", "cellmap_pipeline.submission.official_reader"]
        process = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace"
        )
        if not (folder / RESULT).is_file():
            last_line = (process.stderr.strip() or "no message").splitlines()[-1]
            raise InputError(f"the official toolbox does not run ({last_line}): reinstall it")
        return [rejection(**failure) for failure in json.loads((folder / RESULT).read_text())]


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
    (Path.cwd() / RESULT).write_text(json.dumps(_read_all(Path.cwd())))
