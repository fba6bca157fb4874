"""What a teacher predicts around the crops of another training."""

import numpy as np
import pytest

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.prediction import teacher
from cellmap_pipeline.prediction.teacher import predict_surroundings
from tests.support.networks import tiny_task

RAW = Grid((8, 8, 8), (0, 0, 0), (40, 40, 40))


@pytest.fixture
def crop(tmp_path):
    voxels = np.random.default_rng(0).integers(1, 255, RAW.shape).astype(np.uint8)
    create(tmp_path / "a.zarr/raw", RAW, "uint8", chunk=8).write(voxels).result()
    grid = RAW.box((4, 12, 20), (16, 16, 16))
    (tmp_path / "a.zarr/crop7").mkdir()
    create(tmp_path / "a.zarr/crop7/mito", grid, "uint8").write(np.ones(grid.shape)).result()
    return CropData(tmp_path / "a.zarr/raw", tmp_path / "a.zarr/crop7", ["mito"], (8, 8, 8))


def test_crops_are_predicted_with_the_raw_around_them(crop, tmp_path):
    """As far as there is raw; only classes are stored, not their auxiliary channels."""
    predict_surroundings(
        [tiny_task()], [crop], ["mito", "pm"], (8, 8, 8), Inference(), tmp_path / "predictions"
    )
    folder = tmp_path / "predictions/a/crop7"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["mito", "pm"]
    (level,) = Volume.open(folder / "pm").levels
    assert level.grid == RAW.box((0, 4, 12), (28, 32, 28))


def test_the_grid_is_that_of_the_taught_training(crop, tmp_path, monkeypatch):
    """A teacher of another voxel size is resampled to it."""
    rows = []
    monkeypatch.setattr(teacher, "predict_crop", lambda *args, **_: rows.extend(args[2]))
    crop.voxel_size = (16, 16, 16)
    predict_surroundings([], [crop], ["pm"], (4, 2, 0), Inference(), tmp_path)
    (row,) = rows
    assert (row.dataset, row.crop, row.label) == ("a", 7, "pm")
    # Raw ends 4 voxels of 8 nm before the crop along z.
    assert row.grid.voxel_size == (16, 16, 16) and row.grid.shape == (14, 12, 8)
