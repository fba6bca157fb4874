import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from networks import tiny_task

import cellmap_pipeline.prediction as prediction
from cellmap_pipeline.config import Inference
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel
from cellmap_pipeline.prediction import predict_crop
from cellmap_pipeline.resampling import resample
from cellmap_pipeline.volumes import Volume, create

RAW_GRID = Grid((8, 8, 8), (40, 0, 80), (56, 60, 64))
RAW = np.random.default_rng(0).integers(0, 255, RAW_GRID.shape).astype(np.uint8)


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    made = tiny_task()
    with torch.no_grad():  # away from 0.5 everywhere
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


@pytest.fixture
def raw(tmp_path):
    create(tmp_path / "raw", RAW_GRID, "uint8", chunk=16).write(RAW).result()
    return Volume.open(tmp_path / "raw")


def reference(task, overlap, blending):
    """MONAI's own inferer over all of the raw."""
    image = torch.from_numpy(RAW.astype(np.float32) / 255)[None, None]
    with torch.inference_mode():
        return sliding_window_inference(
            image, 32, 1, lambda x: torch.sigmoid(task(x)), overlap=overlap, mode=blending
        )[0].numpy()


def read(path):
    return Volume.open(path).levels[0].array.read(order="C").result().astype(int)


@pytest.mark.parametrize(
    ("overlap", "blending", "block_bytes"),
    [(0.5, "gaussian", 1 << 30), (0.5, "gaussian", 300_000), (0.0, "constant", 300_000),
     (0.25, "gaussian", 1 << 30)],
)  # fmt: skip
def test_as_monai_does_on_the_whole_volume(
    task, raw, tmp_path, monkeypatch, overlap, blending, block_bytes
):
    monkeypatch.setattr(prediction, "BLOCK_BYTES", block_bytes)
    grids = {
        "mito": RAW_GRID,
        "pm": Grid((16, 16, 16), (44, 4, 84), (28, 30, 32)),
    }
    rows = [CropLabel(1, "d", label, grid) for label, grid in grids.items()]
    inference = Inference(overlap=overlap, blending=blending, batch=3)
    predict_crop(task, raw, rows, tmp_path / "crop1", inference)
    expected = reference(task, overlap, blending)
    for channel, index, grid in (
        ("mito", 0, RAW_GRID), ("mito_boundary", 1, RAW_GRID), ("pm", 2, grids["pm"])
    ):  # fmt: skip
        wanted = np.round(resample(expected[index], RAW_GRID, grid) * 255).astype(int)
        assert np.abs(read(tmp_path / "crop1" / channel) - wanted).max() <= 1
    assert expected.std() > 0.02


@pytest.mark.parametrize("voxel_size", [(8, 8, 8), (4, 8, 16), (3.48, 4, 4)])
def test_blocks_change_nothing(task, raw, tmp_path, monkeypatch, voxel_size):
    grid = Grid(voxel_size, (100, 90, 150), (40, 30, 20))
    rows = [CropLabel(1, "d", "pm", grid)]
    inference = Inference()
    predict_crop(task, raw, rows, tmp_path / "whole", inference)
    monkeypatch.setattr(prediction, "BLOCK_BYTES", 100_000)
    predict_crop(task, raw, rows, tmp_path / "blocks", inference)
    assert np.array_equal(read(tmp_path / "whole/pm"), read(tmp_path / "blocks/pm"))
    level = Volume.open(tmp_path / "whole/pm").levels[0]
    assert level.grid == grid
    attributes = Volume.open(tmp_path / "whole/pm/s0").attributes
    assert attributes["cellmap_pipeline"] == {"kind": "probability"}


def test_a_crop_smaller_than_the_window(task, raw, tmp_path):
    grid = RAW_GRID.box((20, 20, 20), (8, 8, 8))
    predict_crop(task, raw, [CropLabel(1, "d", "pm", grid)], tmp_path / "c", Inference())
    assert read(tmp_path / "c/pm").shape == (8, 8, 8)


def test_what_is_beyond_missing_chunks_does_not_matter(task, raw, tmp_path):
    grid = RAW_GRID.box((0, 0, 0), (32, 32, 32))
    rows = [CropLabel(1, "d", "pm", grid)]
    for chunk in (tmp_path / "raw/s0").glob("[23]/*/*"):
        chunk.unlink()
    predict_crop(task, Volume.open(tmp_path / "raw"), rows, tmp_path / "c", Inference())
    assert read(tmp_path / "c/pm").std() > 0
    (tmp_path / "raw/s0/1/1/1").unlink()
    with pytest.raises(InputError, match="chunks of raw are missing"):
        predict_crop(task, Volume.open(tmp_path / "raw"), rows, tmp_path / "d", Inference())
    assert not (tmp_path / "d").exists()


def test_a_label_that_the_network_does_not_know(task, raw, tmp_path):
    rows = [CropLabel(1, "d", "er", RAW_GRID)]
    with pytest.raises(InputError, match="predicts mito, pm, not er"):
        predict_crop(task, raw, rows, tmp_path / "c", Inference())
