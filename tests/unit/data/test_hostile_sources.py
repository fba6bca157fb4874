"""Sources whose metadata are wrong, or meant to harm: nothing is written outside of `data_root`."""

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.data.fetching import bounds, levels
from cellmap_pipeline.data.fetching.fetch import fetch_crop
from cellmap_pipeline.data.fetching.request import FetchRequest, PredictUse, TrainUse
from cellmap_pipeline.data.margins import RawMargins
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.storage import join_key
from cellmap_pipeline.io.volumes import create
from tests.support import hostile_server
from tests.support.bucket import reach
from tests.support.fuzz import bounded

EM = "d/d.zarr/recon-1/em/fibsem-uint8"
N5 = "d/d.n5/em/raw"
GRID = Grid((8, 8, 8), (0, 0, 0), (32, 32, 32))


@pytest.fixture
def source(tmp_path):
    """A folder in the place of a bucket, beside one to fetch into and a file that is not its."""
    folder = tmp_path / "source"
    voxels = np.arange(32**3, dtype=np.uint32).reshape(GRID.shape).astype(np.uint8)
    create(folder / EM, GRID, "uint8", chunk=16).write(voxels).result()
    return folder


def fetch(source, tmp_path, raw=EM):
    margins = RawMargins((8, 8, 8), (0, 0, 0))
    use = PredictUse((8.0, 8.0, 8.0), GRID.box((8, 8, 8), (8, 8, 8)), margins)
    request = FetchRequest("d", labels=None, raw=f"{source}/{raw}", train=(), predict=(use,))
    return fetch_crop(1, request, tmp_path / "data")


def change(file, **members):
    file.write_text(json.dumps(json.loads(file.read_text()) | members))


def paths_outside(tmp_path):
    return {path.name for path in tmp_path.iterdir()} - {"source", "data"}


def test_a_good_source_is_fetched(source, tmp_path):
    assert fetch(source, tmp_path)["files"] > 3
    assert (tmp_path / "data" / EM / "s0/0/0/0").is_file()


@pytest.mark.parametrize("separator", ["/../../../../../../../", "/./", "//", "\0", "\\", "-\n"])
def test_a_separator_leads_nowhere(source, tmp_path, separator):
    change(source / EM / "s0/.zarray", dimension_separator=separator)
    with pytest.raises(InputError):
        fetch(source, tmp_path)
    assert not paths_outside(tmp_path)
    assert not list((tmp_path / "data").rglob("0*"))


@pytest.mark.parametrize("path", ["../../../../escaped", "/etc", "..", 7, None, {"a": 1}])
def test_a_level_of_an_n5_volume_lies_in_it(source, tmp_path, path):
    shutil.rmtree(source / "d/d.zarr")
    array = {"dimensions": [32] * 3, "blockSize": [16] * 3, "dataType": "uint8",
             "compression": {"type": "raw"}, "pixelResolution": [8, 8, 8]}  # fmt: skip
    for folder in (N5, f"{N5}/s0"):
        (source / folder).mkdir(parents=True)
    (source / N5 / "s0/attributes.json").write_text(json.dumps(array))
    group = {"multiscales": [{"datasets": [{"path": path}]}], "pixelResolution": [8, 8, 8]}
    (source / N5 / "attributes.json").write_text(json.dumps(group))
    escaped = tmp_path / "escaped"
    escaped.mkdir()
    (escaped / "attributes.json").write_text(json.dumps(array))
    with pytest.raises(InputError, match="multiscales"):
        fetch(source, tmp_path, N5)
    assert paths_outside(tmp_path) == {"escaped"}


def test_an_n5_volume_has_an_end(source, tmp_path, monkeypatch):
    shutil.rmtree(source / "d/d.zarr")
    array = {"dimensions": [32] * 3, "blockSize": [16] * 3, "dataType": "uint8",
             "compression": {"type": "raw"}, "pixelResolution": [8, 8, 8]}  # fmt: skip
    for number in range(5):
        (source / N5 / f"s{number}").mkdir(parents=True)
        level = array if not number else array | {"downsamplingFactors": [2**number] * 3}
        (source / N5 / f"s{number}/attributes.json").write_text(json.dumps(level))
    (source / N5 / "attributes.json").write_text("{}")
    monkeypatch.setattr(levels, "MAX_LEVELS", 3)
    assert fetch(source, tmp_path, N5)["files"] > 0
    assert not (tmp_path / "data" / N5 / "s3").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"shape": [10**9] * 3, "chunks": [1] * 3}, "files of .* would be fetched, more than"),
        ({"chunks": [0, 8, 8]}, "s0"),
        ({"chunks": [-8, 8, 8]}, "s0"),
    ],
)
def test_chunks_are_counted_first(source, tmp_path, monkeypatch, members, message):
    monkeypatch.setattr(levels, "MAX_FILES_PER_LEVEL", 100)
    change(source / EM / "s0/.zarray", **members)
    with pytest.raises(InputError, match=message):
        fetch(source, tmp_path)


@pytest.mark.parametrize("text", ["[]", "7", "[" * 100_000, "{", "null"])
def test_metadata_of_another_kind_are_named(source, tmp_path, text):
    (source / EM / "s0/.zarray").write_text(text)
    with pytest.raises(InputError, match=r"s0/\.zarray"):
        fetch(source, tmp_path)


def test_what_killed_jobs_left_is_removed(source, tmp_path):
    folder = tmp_path / "data" / EM / "s0/0/0"
    folder.mkdir(parents=True)
    old, new = folder / ".0.12ab.partial", folder / ".1.34cd.partial"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    fetch(source, tmp_path)
    assert new.exists() and not old.exists()


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_key_stays_below_its_folder(folder, name):
    try:
        key = join_key(folder, name)
    except InputError:
        return
    parts = key.split("/")
    assert ".." not in parts and "." not in parts and "" not in parts
    assert "\0" not in key and key.endswith(name)


def test_usual_keys_are_taken():
    assert join_key("recon-1/em/fibsem-uint8", "s0/12/3/4") == "recon-1/em/fibsem-uint8/s0/12/3/4"
    assert join_key("", ".zattrs") == ".zattrs"
    for name in ("a" * 201, "é" * 128, "a/" * 600 + "a"):
        with pytest.raises(InputError, match="too long for a path"):
            join_key("", name)


CROP = "d/d.zarr/recon-1/labels/groundtruth/crop1"


@pytest.fixture
def labels(source):
    """Two labels of a crop in the middle of the raw."""
    for label in ("er", "mito"):
        grid = GRID.box((8, 8, 8), (16, 16, 16))
        create(source / CROP / label, grid, "uint8", chunk=16).write(1).result()
    return source / CROP


def fetch_labels(source, tmp_path, root=None):
    root = root or source
    use = TrainUse((8.0, 8.0, 8.0), ("er", "mito"), RawMargins((8, 8, 8), (0, 0, 0)))
    request = FetchRequest("d", f"{root}/{CROP}", f"{root}/{EM}", (use,))
    return fetch_crop(1, request, tmp_path / "data")


def chunks_in(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.name.isdigit()]


def test_labels_and_raw_are_fetched(source, labels, tmp_path):
    assert fetch_labels(source, tmp_path)["classes"] == ["er", "mito"]
    assert len(chunks_in(tmp_path / "data")) == 2 + 8


@pytest.mark.parametrize(
    ("names", "shape", "message"),
    [
        (
            ["er"],
            [160, 16, 16],
            "er/s0 spans 1280 nm along z, but .*mito/s0, of the same crop, 12",
        ),
        (["er"], [2, 16, 16], "mito/s0 spans 128 nm along z, but .*er/s0, of the same crop, 16 nm"),
        (
            ["er", "mito"],
            [45, 16, 16],
            "crop 1 spans 360 × 128 × 128 nm, more than all of ",
        ),
        (["er", "mito"], [2**40, 16, 16], r"er/s0 has a shape of .*, larger than any crop"),
    ],
)
def test_a_wrong_shape_of_a_label_brings_nothing(source, labels, tmp_path, names, shape, message):
    for name in names:
        change(labels / name / "s0/.zarray", shape=shape)
    with pytest.raises(InputError, match=message):
        fetch_labels(source, tmp_path)
    assert not chunks_in(tmp_path / "data")


def test_a_crop_may_end_within_a_coarse_voxel_of_a_label(source, labels, tmp_path):
    shutil.rmtree(labels / "er")
    create(labels / "er", Grid((10, 10, 10), (64, 64, 64), (16, 16, 1)), "uint8").write(1).result()
    change(labels / "mito/s0/.zarray", shape=[16, 16, 2])
    assert fetch_labels(source, tmp_path)["classes"] == ["er", "mito"]


def test_all_of_a_crop_is_bounded_first(source, labels, tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_CROP_BYTES", 2 * 16**3 + 8 * 16**3 - 1)
    with pytest.raises(InputError, match="crop 1: 0 GB would be fetched, more than"):
        fetch_labels(source, tmp_path)
    assert not chunks_in(tmp_path / "data")
    monkeypatch.setattr(bounds, "MAX_CROP_BYTES", 2 * 16**3 + 8 * 16**3)
    assert fetch_labels(source, tmp_path)["files"] >= 10


def test_files_are_bounded_by_their_chunks(source, tmp_path):
    change(source / EM / "s0/.zarray", chunks=[2048, 2048, 2048])
    with pytest.raises(InputError, match=r"s0/\.zarray .*a file of .* is larger than 2 GiB"):
        fetch(source, tmp_path)


def test_a_chunk_is_no_larger_than_its_metadata_allow(source, tmp_path):
    with (source / EM / "s0/0/0/0").open("wb") as file:
        file.truncate(2 * 16**3 + 2**16 + 16 + 1)
    with pytest.raises(InputError, match="s0/0/0/0 is larger than 73,744 bytes, too large for a c"):
        fetch(source, tmp_path)
    assert not (tmp_path / "data" / EM / "s0/.zarray").exists()


def test_a_chunk_is_no_pipe(source, tmp_path):
    (source / EM / "s0/0/0/0").unlink()
    os.mkfifo(source / EM / "s0/0/0/0")
    with pytest.raises(InputError, match="s0/0/0/0 is a device or a pipe"):
        fetch(source, tmp_path)


@pytest.mark.parametrize("kind", hostile_server.TOO_LARGE)
@pytest.mark.parametrize("name", [f"{EM}/s0/0/0/0", f"{EM}/s0/.zarray", f"{CROP}/er/.zattrs"])
def test_an_answer_without_an_end(source, labels, tmp_path, monkeypatch, kind, name):
    def answer(request):
        key = request.split()[1].removeprefix("/cells/")
        path = source / key
        if key == name:
            yield from hostile_server.TOO_LARGE[kind]()
        elif path.is_file():
            body = path.read_bytes()
            yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        else:
            yield b"HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n"

    with hostile_server.serve(answer) as url:
        reach(url, monkeypatch)
        with bounded(), pytest.raises(InputError, match=f"s3://cells/{name} is not read further"):
            fetch_labels(source, tmp_path, "s3://cells")
