"""Label volumes: numbers of present voxels, encodings, and coarser voxels."""

import json
import re
import shutil

import numpy as np
import pytest
import tensorstore as ts

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io import labels
from cellmap_pipeline.io.formats.ngff import multiscale_metadata
from cellmap_pipeline.io.labels import LabelVolume, present_voxels
from cellmap_pipeline.io.volumes import Level, create

GRID = Grid((4, 4, 4), (0, 0, 0), (16, 20, 24))
UNKNOWN = {"annotation_type": {"encoding": {"absent": 0, "unknown": 255}}}


def label(path, voxels, annotation=None, chunk=64):
    grid = Grid((4, 4, 4), (0, 0, 0), voxels.shape)
    attributes = {"cellmap": {"annotation": annotation or {}}}
    create(path, grid, voxels.dtype.name, attributes, chunk).write(voxels).result()
    return LabelVolume.open(path)


def ids(unknown=100, present=50):
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels.ravel()[:present] = np.arange(present) % 7 + 1
    voxels.ravel()[-unknown:] = 255
    return voxels


@pytest.fixture
def reads(monkeypatch):
    """A list of the boxes that are read, which grows while they are."""
    boxes = []
    read = Level.read

    def counted(self, start, stop):
        boxes.append((tuple(start), tuple(stop)))
        return read(self, start, stop)

    monkeypatch.setattr(Level, "read", counted)
    return boxes


def test_annotated_counts_avoid_reading(tmp_path, reads):
    # The counts differ from the voxels, which shows that they are used.
    counts = {"absent": GRID.size - 700, "unknown": 400}
    assert present_voxels(label(tmp_path / "a", ids(), {"complement_counts": counts})) == 300
    assert not reads


def test_annotated_counts_of_the_group_are_used(tmp_path, reads):
    label(tmp_path / "a", ids())
    path = tmp_path / "a/.zattrs"
    counts = {"cellmap": {"annotation": {"complement_counts": {"absent": GRID.size - 3}}}}
    path.write_text(json.dumps(json.loads(path.read_text()) | counts))
    assert present_voxels(LabelVolume.open(tmp_path / "a")) == 3
    assert not reads


def test_counts_of_a_finer_array_are_ignored(tmp_path):
    counts = {"complement_counts": {"absent": 8 * GRID.size}}
    assert present_voxels(label(tmp_path / "a", ids(), counts | UNKNOWN)) == 50


def test_counts_of_the_finest_array_are_scaled_to_a_coarser_one(tmp_path, reads):
    path = tmp_path / "a"
    label(path, ids())
    grids = [GRID.at([v / 2 for v in GRID.voxel_size]), GRID]
    (path / "s0").rename(path / "s1")
    counts = {"complement_counts": {"absent": 8 * GRID.size - 800}}
    attributes = {"cellmap": {"annotation": counts}}
    metadata = {"multiscales": [multiscale_metadata("a", grids)]}
    (path / ".zattrs").write_text(json.dumps(metadata | attributes))
    assert present_voxels(LabelVolume.open(path)) == 100
    assert not reads


@pytest.mark.parametrize(
    ("annotation", "expected"), [(UNKNOWN, 50), ({}, 150)], ids=["255 unknown", "none"]
)
def test_unknown_voxels_are_not_counted(annotation, expected, tmp_path):
    assert present_voxels(label(tmp_path / "a", ids(), annotation, chunk=7)) == expected


def test_coarser_level_of_a_large_label_is_counted(tmp_path, monkeypatch, reads):
    fine = ids(unknown=1).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    label(tmp_path / "a", fine)
    label(tmp_path / "coarse", ids(unknown=1))
    shutil.move(tmp_path / "coarse/s0", tmp_path / "a/s1")
    grid = Grid((4, 4, 4), (0, 0, 0), fine.shape)
    levels = multiscale_metadata("a", [grid, grid.at((8, 8, 8))])
    (tmp_path / "a/.zattrs").write_text(json.dumps({"multiscales": [levels]}))
    volume = LabelVolume.open(tmp_path / "a")
    assert present_voxels(volume) == 51 * 8
    assert reads == [((0, 0, 0), fine.shape)]
    monkeypatch.setattr(labels, "PREFERRED_COUNTED_VOXELS", GRID.size)
    assert present_voxels(volume) == 51 * 8
    assert reads[1:] == [((0, 0, 0), GRID.shape)]


def test_some_chunks_of_a_large_array_are_counted(tmp_path, monkeypatch, reads):
    z, y, x = np.ogrid[:128, :120, :136]
    voxels = ((z - 60) ** 2 + (y - 40) ** 2 + (x - 80) ** 2 < 50**2).astype(np.uint16)
    volume = label(tmp_path / "a", voxels, chunk=8)
    monkeypatch.setattr(labels, "PREFERRED_COUNTED_VOXELS", 1000)
    monkeypatch.setattr(labels, "MAX_COUNTED_VOXELS", 400 * 8**3)
    estimate = present_voxels(volume)
    assert estimate == pytest.approx(np.count_nonzero(voxels), rel=0.1)
    assert len(reads) == len(set(reads)) == 400  # of 16 * 15 * 17
    assert present_voxels(volume) == estimate


def test_chunks_of_shards_are_counted_one_by_one(tmp_path, reads):
    grid = Grid((4, 4, 4), (0, 0, 0), (64, 64, 64))
    sharding = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [16, 16, 16], "codecs": [{"name": "bytes"}]},
    }
    metadata = {
        "shape": grid.shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": grid.shape}},
        "codecs": [sharding],
        "attributes": {"voxel_size": grid.voxel_size, "translation": grid.translation},
    }
    kvstore = {"driver": "file", "path": f"{tmp_path}/a/"}
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    ts.open(spec, create=True).result()[:20, :20, :20].write(np.uint8(1)).result()
    assert present_voxels(LabelVolume.open(tmp_path / "a")) == 20**3
    assert len(reads) == 4**3
    assert {tuple(np.subtract(stop, start)) for start, stop in reads} == {(16, 16, 16)}


def test_array_of_the_challenges_largest_size_is_counted_by_few_chunks(tmp_path, reads):
    grid = Grid((2, 2, 2), (0, 0, 0), (1600, 1796, 2250))
    array = create(tmp_path / "a", grid, "uint8", chunk=64)
    array[:64, :64, :64].write(1).result()
    assert present_voxels(LabelVolume.open(tmp_path / "a")) <= grid.size / 200
    assert len(reads) <= 2**26 / 64**3


ENCODINGS = {
    "plain": ({}, [0, 1, 2, 3], [1, 1, 1, 1]),
    "unknown": ({"unknown": 3}, [0, 1, 2, 0], [1, 1, 1, 0]),
    "absent is 1": ({"unknown": 0, "absent": 1, "present": 2}, [0, 0, 2, 3], [0, 1, 1, 1]),
    "present is 0": ({"absent": 1, "present": 0}, [1, 0, 2, 3], [1, 1, 1, 1]),
}


@pytest.mark.parametrize(("encoding", "ids", "known"), ENCODINGS.values(), ids=ENCODINGS)
def test_the_whole_encoding_is_honored(encoding, ids, known, tmp_path):
    stored = np.arange(4, dtype=np.uint8).reshape(1, 1, 4)
    volume = label(tmp_path / "a", stored, {"annotation_type": {"encoding": encoding}})
    read = volume.read(Grid((4, 4, 4), (0, 0, 0), stored.shape))
    assert read[0].ravel().tolist() == ids
    assert read[1].ravel().tolist() == list(map(bool, known))
    assert present_voxels(volume) == np.count_nonzero(ids)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ({"unknown": "255"}, "the `unknown` of its encoding is '255': write a whole number"),
        ({"absent": True}, "the `absent` of its encoding is True: write a whole number"),
        ({"absent": -1}, "the `absent` of its encoding is -1, but ids are 0 or more"),
        ({"absent": 0, "present": 0}, "its encoding has 0 for both absent and present"),
        ({"absent": 256}, "the `absent` of its encoding is 256, which uint8 does not hold"),
    ],
    ids=["text", "boolean", "negative", "same value twice", "beyond the type"],
)
def test_wrong_encodings_are_refused(encoding, message, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)):
        label(tmp_path / "a", ids(), {"annotation_type": {"encoding": encoding}})


def test_coarser_labels_are_made_from_the_finest_level(tmp_path):
    voxels = np.zeros((4, 4, 4), np.uint16)
    voxels[:2, :2, :2] = 5  # one voxel of 8 nm
    voxels[2, 2:, 2:] = 7  # half of one
    voxels[0, 0, 2] = 9  # an eighth of one
    coarse = Grid((8, 8, 8), (2, 2, 2), (2, 2, 2))
    read, known = label(tmp_path / "a", voxels).read(coarse)
    assert known.all() and read.dtype == np.uint16
    assert read.ravel().tolist() == [5, 0, 0, 0, 0, 0, 0, 7]


@pytest.mark.parametrize("read", ["read", "read_nearest"])
@pytest.mark.parametrize("voxel_size", [(12, 12, 12), (4, 20, 20), (10, 10, 10)])
def test_much_finer_labels_are_read_in_slabs(tmp_path, monkeypatch, reads, read, voxel_size):
    ids = np.random.default_rng(0).integers(0, 4, (40, 31, 30)).repeat(2, 0).astype(np.uint16)
    stored = Grid((4, 4, 4), (20, 0, 8), ids.shape)
    create(tmp_path / "label", stored, "uint16").write(ids).result()
    label = LabelVolume.open(tmp_path / "label")
    # Also of voxels outside of the volume.
    grid = stored.at(voxel_size).padded([2, 3, 1])
    whole = getattr(label, read)(grid)
    monkeypatch.setattr(labels, "MAX_FINER_VOXELS", 5000)
    reads.clear()
    in_slabs = getattr(label, read)(grid)
    for slab, expected in zip(in_slabs, whole, strict=True):
        np.testing.assert_array_equal(slab, expected)
        assert slab.dtype == expected.dtype
    assert len(reads) > 5
    # A plane of the grid is never cut.
    plane = np.prod([grid.shape[1] + 2, grid.shape[2] + 2]) * np.prod(voxel_size) / 64
    assert max(np.prod(np.subtract(stop, start)) for start, stop in reads) <= max(5000, 2 * plane)


def test_nothing_is_known_outside_of_the_volume(tmp_path):
    volume = label(tmp_path / "a", np.ones((4, 4, 4), np.uint8))
    read, known = volume.read(Grid((8, 8, 8), (1002, 2, 2), (2, 2, 2)))
    assert not read.any() and not known.any()


def test_encoding_of_the_finest_present_level_is_used(tmp_path):
    volume = label(tmp_path / "a", ids(), UNKNOWN)
    grids = [GRID.at((2, 2, 2)), GRID]
    (tmp_path / "a/s0").rename(tmp_path / "a/s1")
    metadata = {"multiscales": [multiscale_metadata("a", grids)]}
    (tmp_path / "a/.zattrs").write_text(json.dumps(metadata))
    assert LabelVolume.open(tmp_path / "a").encoding == volume.encoding
