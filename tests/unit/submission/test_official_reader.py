"""The official reader as a cross-check: by a stand-in for the toolbox, and itself where it is."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.submission.official_reader import TOOLBOX, check_officially
from cellmap_pipeline.submission.package import package
from tests.support.drawn_volumes import write_array

GRID = Grid((8, 8, 8), (16, 0, 24), (6, 7, 8))
MANIFEST = [CropLabel(1, "a-1", label, GRID) for label in ("er", "mito")]

# What our side asks of the toolbox, and what it leaves behind where it runs.
STAND_IN = """
import json, os, zipfile, numpy, zarr
from pathlib import Path
from types import SimpleNamespace
Path({seen!r}).write_text(json.dumps({{
    "folder": sorted(os.listdir()), "manifest": os.environ["CSC_TEST_CROP_MANIFEST_URL"]}}))
def prepare(path):
    if {broken!r}:
        raise ValueError("no zarr")
    target = Path(path).with_suffix(".zarr")
    zipfile.ZipFile(path).extractall(target)
    return target
submission = SimpleNamespace(
    _prepare_submission=prepare,
    ensure_zgroup=lambda path: zarr.open(str(path), mode="r"))
def match_crop_space(path, label, voxel_size, shape, translation):
    if label == {stops!r}:
        raise KeyError("not here")
    return zarr.open(path, mode="r")[:] + ({differs!r} == label)
"""


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    """A submission that is fine, with a stale folder beside it."""
    voxels = np.zeros(GRID.shape, "u1")
    voxels[2:4, 2:4, 2:4] = 1
    for row in MANIFEST:
        attributes = {"voxel_size": GRID.voxel_size, "translation": GRID.translation}
        write_array(tmp_path / "labels/a-1/crop1" / row.label, voxels, attributes)
    package(tmp_path / "labels", MANIFEST, tmp_path / "submission.zip")
    (tmp_path / "submission.zarr").mkdir()
    return tmp_path / "submission.zip"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: str) -> Path:
    """Put a stand-in for the toolbox on the path; where it says what it saw."""
    seen = folder / "seen.json"
    utils = folder / "site" / TOOLBOX / "utils"
    utils.mkdir(parents=True)
    for path in (utils.parent, utils):
        (path / "__init__.py").touch()
    (utils / "test_crop_manifest.csv").write_text("its own")
    options = {"broken": "", "stops": "", "differs": ""} | options
    (utils / "eval_utils.py").write_text(STAND_IN.format(seen=str(seen), **options))
    monkeypatch.syspath_prepend(str(folder / "site"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    return seen


def test_it_runs_on_a_private_copy_in_an_empty_folder(
    zipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, content = sorted(os.listdir(tmp_path)), zipped.read_bytes()
    seen = install(tmp_path, monkeypatch)
    assert check_officially(zipped, MANIFEST) == []
    saw = json.loads(seen.read_text())
    assert saw["folder"] == ["manifest.csv", "submission.zip"]
    own = tmp_path / "site" / TOOLBOX / "utils/test_crop_manifest.csv"
    assert saw["manifest"] == str(own)
    assert own.read_text() == "its own"
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "site", "seen.json"])
    assert os.listdir(tmp_path / "submission.zarr") == []
    assert zipped.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "place", "message"),
    [
        ({"broken": "yes"}, (None, None), "the official reader stops at the zip: no zarr"),
        ({"stops": "er"}, ("crop1", "er"), "the official reader stops: KeyError: 'not here'"),
        ({"differs": "mito"}, ("crop1", "mito"), "has other voxels than ours"),
    ],
)
def test_what_it_stops_at_is_rejected(
    zipped: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    place: tuple[str | None, str | None],
    message: str,
) -> None:
    install(tmp_path, monkeypatch, **options)
    (problem,) = check_officially(zipped, MANIFEST)
    assert (problem.severity, problem.crop, problem.label) == ("rejected", *place)
    assert message in problem.message


def test_a_toolbox_that_does_not_run(
    zipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    (tmp_path / "site" / TOOLBOX / "utils/eval_utils.py").write_text("import torch_of_long_ago")
    with pytest.raises(InputError, match="does not run here .*No module named 'torch_of_long_ago'"):
        check_officially(zipped, MANIFEST)


@pytest.mark.skipif(importlib.util.find_spec(TOOLBOX) is not None, reason="it is installed")
def test_one_sentence_where_it_is_absent(zipped: Path) -> None:
    with pytest.raises(InputError, match=r"is not installed here.*leave out --official"):
        check_officially(zipped, MANIFEST)


@pytest.mark.skipif(importlib.util.find_spec(TOOLBOX) is None, reason="not installed")
def test_the_toolbox_itself(zipped: Path, tmp_path: Path) -> None:
    before = sorted(os.listdir(tmp_path))
    assert check_officially(zipped, MANIFEST) == []
    assert sorted(os.listdir(tmp_path)) == before
    path = tmp_path / "labels/a-1/crop1/er"
    zarr.open(str(path)).attrs["translation"] = "here"
    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    group.create_group("crop1")
    path.rename(tmp_path / "s/crop1/er")
    shutil.make_archive(str(tmp_path / "broken"), "zip", tmp_path / "s")
    (problem,) = check_officially(tmp_path / "broken.zip", MANIFEST)
    assert (problem.crop, problem.label) == ("crop1", "er")
    assert "could not convert string to float" in problem.message
