"""What a teacher predicts around the crops of another training."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.prediction import teacher
from cellmap_pipeline.prediction.teacher import fill_overlaps, hidden_extents, predict_surroundings
from tests.support.networks import tiny_task

RAW = Grid((8, 8, 8), (0, 0, 0), (40, 40, 40))


@pytest.fixture
def crop(tmp_path):
    voxels = np.random.default_rng(0).integers(1, 255, RAW.shape).astype(np.uint8)
    create(tmp_path / "a.zarr/raw", RAW, "uint8", chunk=8).write(voxels).result()
    grid = RAW.box((4, 12, 20), (16, 16, 16))
    (tmp_path / "a.zarr/crop7").mkdir()
    create(tmp_path / "a.zarr/crop7/mito", grid, "uint8").write(np.ones(grid.shape, "u1")).result()
    return CropData(tmp_path / "a.zarr/raw", tmp_path / "a.zarr/crop7", ["mito"], (8, 8, 8))


def box_to_label(crop, margin, monkeypatch, *others):
    """Return the row that would be predicted around a crop beside test crops; None if none."""
    rows = []
    monkeypatch.setattr(teacher, "predict_crop", lambda *args, **_: rows.extend(args[2]))
    hidden = hidden_extents(
        {"train": [crop], "validate": []}, {"a": list(map(astuple, others)), "b": []}
    )
    predict_surroundings([], [crop], ["pm"], margin, hidden, Inference(), Path())
    return rows[0] if rows else None


def test_crops_are_predicted_with_the_raw_around_them(crop, tmp_path):
    """As far as there is raw; only classes are stored, not their auxiliary channels."""
    hidden = hidden_extents({"train": [crop], "validate": []}, {})
    predict_surroundings(
        [tiny_task()], [crop], ["mito", "pm"], (8, 8, 8), hidden, Inference(),
        tmp_path / "predictions",
    )  # fmt: skip
    folder = tmp_path / "predictions/a/crop7"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["mito", "pm"]
    (level,) = Volume.open(folder / "pm").levels
    assert level.grid == RAW.box((0, 4, 12), (28, 32, 28))


def test_the_grid_is_that_of_the_taught_training(crop, monkeypatch):
    """A teacher of another voxel size is resampled to it."""
    crop.voxel_size = (16, 16, 16)
    row = box_to_label(crop, (4, 2, 0), monkeypatch)
    assert (row.dataset, row.crop, row.label) == ("a", 7, "pm")
    # Raw ends 4 voxels of 8 nm before the crop along z.
    assert row.grid.voxel_size == (16, 16, 16) and row.grid.shape == (14, 12, 8)


def test_only_raw_outside_of_other_crops_is_predicted(crop, monkeypatch):
    """On all sides, on two sides, and nowhere."""
    beside = crop.grid.box((0, 0, 16), (16, 16, 4)), crop.grid.box((-4, -4, 0), (28, 4, 16))
    above = crop.grid.box((-4, 0, 0), (4, 24, 16))
    below = crop.grid.box((16, 0, 0), (8, 12, 16))
    row = box_to_label(crop, (8, 4, 0), monkeypatch, above, below)
    assert row.grid == crop.grid.box((-4, -4, 0), (28, 24, 16))
    row = box_to_label(crop, (8, 4, 0), monkeypatch, *beside, above, below)
    assert row.grid == crop.grid.box((0, 12, 0), (24, 8, 16))
    rest = crop.grid.box((0, 12, 0), (24, 8, 16))
    assert box_to_label(crop, (8, 4, 0), monkeypatch, *beside, above, below, rest) is None


def test_voxels_that_an_extent_overlaps_are_hidden():
    labels = np.zeros((4, 4, 4), np.uint8)
    grid = Grid((8, 8, 8), (0, 0, 0), labels.shape)
    # Parts of two voxels in y and x, from the second on in z; the others lie beside the array.
    extents = [Grid((4, 4, 4), (12, 10, 10), (100, 2, 2)), grid.box((-9, 0, 0), (5, 4, 4))]
    fill_overlaps(labels, grid, [*extents, grid.box((4, 0, 0), (9, 4, 4))], 255)
    expected = np.zeros_like(labels)
    expected[1:, 1:3, 1:3] = 255
    assert np.array_equal(labels, expected)
