"""Cross-check with the official reader: with a stand-in for the toolbox, and with the toolbox."""

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
from cellmap_pipeline.submission.official_reader import check_officially
from cellmap_pipeline.submission.official_toolbox import TOOLBOX
from cellmap_pipeline.submission.package import package
from tests.support.drawn_volumes import write_array

GRID = Grid((8, 8, 8), (16, 0, 24), (6, 7, 8))
MANIFEST = [CropLabel(1, "a-1", label, GRID) for label in ("er", "mito")]

# The part of the toolbox that is used; it records the folder and the manifest that it gets.
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
    """Valid submission, with a stale unpacked folder next to it."""
    voxels = np.zeros(GRID.shape, "u1")
    voxels[2:4, 2:4, 2:4] = 1
    for row in MANIFEST:
        attributes = {"voxel_size": GRID.voxel_size, "translation": GRID.translation}
        write_array(tmp_path / "labels/a-1/crop1" / row.label, voxels, attributes)
    package(tmp_path / "labels", MANIFEST, tmp_path / "submission.zip")
    (tmp_path / "submission.zarr").mkdir()
    return tmp_path / "submission.zip"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: str) -> Path:
    """Put a stand-in for the toolbox on the path; return the path of its record."""
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


def test_reader_runs_on_a_private_copy_in_an_empty_folder(
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
        ({"differs": "mito"}, ("crop1", "mito"), "reads other voxels than this package"),
    ],
)
def test_failures_of_the_reader_are_rejections(
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


def test_toolbox_that_does_not_run(
    zipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch)
    (tmp_path / "site" / TOOLBOX / "utils/eval_utils.py").write_text("import torch_of_long_ago")
    with pytest.raises(InputError, match="does not run .*No module named 'torch_of_long_ago'"):
        check_officially(zipped, MANIFEST)


@pytest.mark.skipif(importlib.util.find_spec(TOOLBOX) is not None, reason="installed")
def test_toolbox_that_is_not_installed(zipped: Path) -> None:
    with pytest.raises(InputError, match=r"is not installed, .*or omit --official"):
        check_officially(zipped, MANIFEST)


@pytest.mark.skipif(importlib.util.find_spec(TOOLBOX) is None, reason="not installed")
def test_official_toolbox(zipped: Path, tmp_path: Path) -> None:
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
