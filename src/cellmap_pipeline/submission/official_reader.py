"""The official evaluator's own reader on a submission, as a cross-check of ours.

The toolbox (cellmap-segmentation-challenge, not on the package index) is optional. It runs in a
process of its own: it sets up logging for all, unpacks the zip beside itself or takes a stale
folder that lies there, and when it is imported it replaces its own manifest by what its address of
it gives. So it gets a private copy of the zip in an empty folder, and its own manifest as the
address.
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
from cellmap_pipeline.submission.check_zip import Problem, rejected

TOOLBOX = "cellmap_segmentation_challenge"
MANIFEST_URL = "CSC_TEST_CROP_MANIFEST_URL"
SOURCE = Path(__file__).resolve().parents[2]
ZIP, MANIFEST, RESULT = "submission.zip", "manifest.csv", "result.json"


def check_officially(path: str | Path, manifest: Sequence[CropLabel]) -> list[Problem]:
    """What the official reader stops at, or reads otherwise than we do.

    Parameters
    ----------
    path
        Of the zip; it is unpacked beside it, for a while.
    manifest
        The labels to read.

    Raises
    ------
    InputError
        The toolbox is not installed here, or does not run.
    """
    if importlib.util.find_spec(TOOLBOX) is None:
        raise InputError(
            "the official toolbox (cellmap-segmentation-challenge) is not installed here, so its "
            "reader was not run: install it from "
            "https://github.com/janelia-cellmap/cellmap-segmentation-challenge, or leave out "
            "--official"
        )
    path = Path(path).resolve()
    # On the disk that had room for the zip, and where a link to it can lie.
    beside = path.parent if os.access(path.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".official-", dir=beside) as name:
        folder = Path(name)
        try:
            os.link(path, folder / ZIP)
        except OSError:
            shutil.copyfile(path, folder / ZIP)
        write_manifest(manifest, folder / MANIFEST)
        environment = os.environ | {
            MANIFEST_URL: str(toolbox_manifest()),
            "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", "cellmap_pipeline.submission.official_reader"]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace"
        )
        if not (folder / RESULT).is_file():
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise InputError(f"the official toolbox does not run here ({last}): install it again")
        return [rejected(**found) for found in json.loads((folder / RESULT).read_text())]


def _read_all(folder: Path) -> list[dict[str, Any]]:
    """Unpack and read as the evaluator does; what fails, as arguments of `rejected`."""
    # Not to be imported where it is not wanted: it takes long and sets up logging.
    from cellmap_segmentation_challenge.utils.eval_utils import submission

    found: list[dict[str, Any]] = []
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
                found += [{"message": message} | place] if message else []
        except Exception as error:
            # Whatever it is, the evaluator would stop there, too.
            message = f"the official reader stops: {type(error).__name__}: {error}"
            found.append({"message": message} | place)
    return found


def _upath(path: Path) -> Any:
    from upath import UPath

    return UPath(path)


def _difference(path: Path, row: CropLabel, archive: Path, crop: str) -> str | None:
    """Where the official reader has other voxels than ours, said in words."""
    import numpy as np
    from cellmap_segmentation_challenge.utils.eval_utils import match_crop_space

    from cellmap_pipeline.classes import is_instance
    from cellmap_pipeline.scoring.archive import Archive
    from cellmap_pipeline.scoring.slabs import slabs
    from cellmap_pipeline.scoring.submission import placed

    grid = row.grid
    theirs = match_crop_space(str(path), row.label, grid.voxel_size, grid.shape, grid.translation)
    ours = placed(Archive.open(archive).array(crop, row.label), grid, is_instance(row.label))
    equal_nan = theirs.dtype.kind == "f"
    if theirs.dtype == ours.dtype and all(
        np.array_equal(a, b, equal_nan=equal_nan) for a, b in slabs(ours, theirs)
    ):
        return None
    return "the official reader has other voxels than ours: please report this with the zip"


if __name__ == "__main__":
    (Path.cwd() / RESULT).write_text(json.dumps(_read_all(Path.cwd())))
