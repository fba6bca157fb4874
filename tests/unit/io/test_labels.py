import json
import shutil

import numpy as np
import pytest

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
    """The boxes that are read."""
    boxes = []
    read = Level.read

    def counted(self, start, stop):
        boxes.append((tuple(start), tuple(stop)))
        return read(self, start, stop)

    monkeypatch.setattr(Level, "read", counted)
    return boxes


def test_what_the_annotation_counts_is_not_read(tmp_path, reads):
    # the voxels say otherwise, so that it shows which of the two is taken
    counts = {"absent": GRID.size - 700, "unknown": 400}
    assert present_voxels(label(tmp_path / "a", ids(), {"complement_counts": counts})) == 300
    assert not reads


def test_counts_on_the_group(tmp_path, reads):
    label(tmp_path / "a", ids())
    path = tmp_path / "a/.zattrs"
    counts = {"cellmap": {"annotation": {"complement_counts": {"absent": GRID.size - 3}}}}
    path.write_text(json.dumps(json.loads(path.read_text()) | counts))
    assert present_voxels(LabelVolume.open(tmp_path / "a")) == 3
    assert not reads


def test_counts_of_a_finer_array_are_not_taken(tmp_path):
    counts = {"complement_counts": {"absent": 8 * GRID.size}}
    assert present_voxels(label(tmp_path / "a", ids(), counts | UNKNOWN)) == 50


def test_counts_of_the_finest_array_hold_for_a_coarser_one(tmp_path, reads):
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


@pytest.mark.parametrize(("annotation", "expected"), [(UNKNOWN, 50), ({}, 150)])
def test_voxels_are_counted_without_the_unknown(annotation, expected, tmp_path):
    assert present_voxels(label(tmp_path / "a", ids(), annotation, chunk=7)) == expected


def test_a_coarser_level_stands_for_a_big_one(tmp_path, monkeypatch, reads):
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


def test_some_chunks_stand_for_a_big_array(tmp_path, monkeypatch, reads):
    z, y, x = np.ogrid[:128, :120, :136]
    voxels = ((z - 60) ** 2 + (y - 40) ** 2 + (x - 80) ** 2 < 50**2).astype(np.uint16)
    volume = label(tmp_path / "a", voxels, chunk=8)
    monkeypatch.setattr(labels, "PREFERRED_COUNTED_VOXELS", 1000)
    monkeypatch.setattr(labels, "MAX_COUNTED_VOXELS", 400 * 8**3)
    estimate = present_voxels(volume)
    assert estimate == pytest.approx(np.count_nonzero(voxels), rel=0.1)
    assert len(reads) == len(set(reads)) == 400  # of 16 * 15 * 17
    assert present_voxels(volume) == estimate


def test_an_array_as_big_as_the_challenges_largest(tmp_path, reads):
    grid = Grid((2, 2, 2), (0, 0, 0), (1600, 1796, 2250))
    array = create(tmp_path / "a", grid, "uint8", chunk=64)
    array[:64, :64, :64].write(1).result()
    assert present_voxels(LabelVolume.open(tmp_path / "a")) <= grid.size / 200
    assert len(reads) <= 2**26 / 64**3
