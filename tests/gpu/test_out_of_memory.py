"""Trainings say what to lower, and predictions continue, where the GPU's memory is too small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.training.task import SegmentationTask
from tests.gpu.memory import SmallMemory, free_with_sums, limit, peak_of, refuse_sums
from tests.support.networks import tiny_task

pytestmark = pytest.mark.gpu

MIB = 2**20


def test_a_training_that_does_not_fit_says_what_to_lower(drawn, folder, device, monkeypatch):
    training = drawn.training("monai_unet_quick", 1)
    if device.type == "cuda":
        limit(500 * MIB)
    else:
        monkeypatch.setattr(SegmentationTask, "outputs", SmallMemory(None, 0).forward)
        monkeypatch.setattr(SegmentationTask, "outputs", lambda task, raw: run_out())
    message = r"the GPU's memory is too small for this training: lower `batch_size` \(\d+\).*memory"
    with pytest.raises(InputError, match=message):
        drawn.train(training, folder)


def run_out():
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def predict(device, tmp_path):
    """Function that predicts a crop of long rows of windows; it returns the probabilities."""
    grid = Grid((8, 8, 8), (0, 0, 0), (48, 48, 20_000 if device.type == "cuda" else 100))
    voxels = np.random.default_rng(0).integers(0, 255, grid.shape).astype(np.uint8)
    create(tmp_path / "raw", grid, "uint8").write(voxels).result()
    rows = [CropLabel(1, "d", label, grid) for label in ("mito", "pm")]
    torch.manual_seed(0)
    task = tiny_task(precision="bf16-mixed")
    # Gaussian blending would let a difference of batches disappear at the borders of windows.
    inference = Inference(overlap=0.5, blending="constant", batch=16)

    def predict(name, batch=16):
        given = inference.model_copy(update={"batch": batch})
        predict_crop([task], Volume.open(tmp_path / "raw"), rows, tmp_path / name, given)
        return {
            label: Volume.open(tmp_path / name / label).levels[0].array.read().result().astype(int)
            for label in ("mito", "pm")
        }

    predict.task = task
    # Of mito, its boundary and pm, int16; a row is as deep and as high as a window.
    predict.sums_bytes = 3 * 32 * 32 * grid.shape[2] * 2
    return predict


def assert_same(found, wanted):
    """Other batches may take other algorithms."""
    for label, values in wanted.items():
        assert values.std() > 0.5
        assert np.abs(found[label] - values).max() <= 2


def test_the_batch_of_a_prediction_is_halved(predict, device, caplog):
    task = predict.task
    wanted = predict("wanted")
    assert "too small" not in caplog.text
    if device.type == "cuda":
        one, many = (peak_of(lambda b=batch: predict(f"batch {b}", b)) for batch in (1, 16))
        assert many > one + 4 * MIB
        limit((one + many) / 2)
    else:
        task.network = SmallMemory(task.network, 3)
    found = predict("found")
    assert "continuing with batch" in caplog.text
    assert "the host's memory holds them" not in caplog.text
    assert_same(found, wanted)


def test_sums_that_do_not_fit_are_kept_on_the_host(predict, device, caplog, monkeypatch):
    wanted = predict("wanted")
    if device.type == "cuda":
        limit(0.8 * predict.sums_bytes)
    else:
        refuse_sums(monkeypatch)
    found = predict("found", 1)
    assert "the host's memory holds them" in caplog.text
    assert_same(found, wanted)


def test_sums_make_room_for_a_window(predict, device, caplog, monkeypatch):
    """They fit alone, but not next to one window."""
    task = predict.task
    wanted = predict("wanted")
    if device.type == "cuda":
        limit(1.05 * predict.sums_bytes)
    else:
        task.network = SmallMemory(task.network, 0)
        free_with_sums(monkeypatch, task.network)
    found = predict("found")
    assert "continuing with batch 1" in caplog.text
    if device.type == "cuda":
        assert "the host's memory holds them" in caplog.text
    assert_same(found, wanted)
