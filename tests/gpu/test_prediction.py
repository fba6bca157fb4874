"""Probabilities of the GPU are those of the CPU, with any batch, and finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cellmap_pipeline.prediction.predictor as predictor_module
from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.prediction.predictor import MAX_BATCH, Predictor
from tests.support.networks import tiny_task

pytestmark = pytest.mark.gpu

# Three windows along z, and two along the other axes.
GRID = Grid((8, 8, 8), (0, 0, 0), (64, 48, 48))
# Each in a size for which the CPU takes seconds.
NETWORKS = {
    "monai_basic_unet3d": {"features": [8, 8, 16, 16, 16, 8]},
    "mednext": {"size": "S"},
    "nnunet_resenc": {"features": 8},
}


@pytest.fixture
def predict(tmp_path):
    """Function that predicts a crop and returns the probabilities, in steps of 1/255."""
    voxels = np.random.default_rng(0).integers(0, 255, [n // 8 for n in GRID.shape])
    for axis in range(3):
        voxels = voxels.repeat(8, axis)
    create(tmp_path / "raw", GRID, "uint8").write(voxels.astype(np.uint8)).result()
    rows = [CropLabel(1, "d", label, GRID) for label in ("mito", "pm")]

    def predict(name, task, **inference):
        given = Inference(overlap=0.5, **inference)
        predict_crop([task], Volume.open(tmp_path / "raw"), rows, tmp_path / name, given)
        return np.stack(
            [
                Volume.open(tmp_path / name / label).levels[0].array.read().result().astype(int)
                for label in ("mito", "pm")
            ]
        )

    return predict


class Damped(torch.nn.Module):
    """A network with smaller logits: rounding errors grow with them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, raw):
        return self.network(raw) / 3


def drawn_task(architecture, **changes):
    """Return a network with fixed random weights whose probabilities differ between voxels."""
    torch.manual_seed(0)
    task = tiny_task(model={"architecture": architecture} | NETWORKS[architecture], **changes)
    if architecture == "mednext":
        task.network = Damped(task.network)
    return task


@pytest.mark.parametrize("architecture", NETWORKS)
def test_probabilities_equal_those_of_the_cpu(predict, device, monkeypatch, architecture):
    """In bfloat16, within two of the 255 steps that are stored."""
    task = drawn_task(architecture, precision="bf16-mixed")
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        wanted = predict("cpu", task)
    if device.type == "cpu":
        monkeypatch.setattr(
            predictor_module, "autocast", lambda *_: torch.autocast("cpu", dtype=torch.bfloat16)
        )
    found = predict("device", task)
    assert next(task.parameters()).device.type == device.type
    assert wanted.std() > 3
    assert (found != wanted).any(), "bfloat16 was not used"
    assert np.abs(found - wanted).max() <= 2


def test_auto_finds_a_batch_with_the_same_probabilities(predict, device, caplog, monkeypatch):
    task = drawn_task("monai_basic_unet3d", precision="32")
    wanted = predict("one", task, batch=1)
    found = predict("auto", task, batch="auto")
    made = Predictor([task], ["pm"], (32, 32, 32), Inference(batch="auto"))
    assert (made.batch == 1) if device.type == "cpu" else (1 <= made.batch <= MAX_BATCH)
    assert wanted.std() > 3
    assert np.abs(found - wanted).max() <= 1


class Spoiled(torch.nn.Module):
    """A network whose logits contain a value in one of the windows, counted from 1."""

    def __init__(self, network, window, value):
        super().__init__()
        self.network, self.left, self.value = network, window, value

    def forward(self, raw):
        logits = self.network(raw)
        self.left -= 1
        if self.left == 0:
            logits[0, 2, 3, 4, 5] = self.value
        return logits


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_window_that_is_not_finite_is_named(predict, value):
    """The last one of the first layer, in which all begin at voxel 0 or 16."""
    task = drawn_task("monai_basic_unet3d", precision="bf16-mixed")
    task.network = Spoiled(task.network, 4, value)
    message = (
        r"^d/crop1: the network returned values that are not finite \(NaN or infinity\) in the "
        r"window of \[32, 32, 32\] voxels at \[0.0, 128.0, 128.0\] nm"
    )
    with pytest.raises(InputError, match=message):
        predict("spoiled", task, batch=1)
