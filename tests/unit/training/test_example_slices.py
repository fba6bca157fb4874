"""Example images of a training."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from cellmap_pipeline.classes import style_of
from cellmap_pipeline.training.example_slices import ExampleSlices, encode_png, rgb_of
from tests.support.networks import tiny_task


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (300, 7)])
def test_a_png_holds_the_image(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image)))), image)


def test_raw_ground_truth_and_prediction_lie_side_by_side(tmp_path):
    """Of three batches, the second one is drawn: raw above 1 is white, unknown voxels are gray."""
    writer = SummaryWriter(tmp_path)
    trainer = SimpleNamespace(
        num_val_batches=[3], logger=SimpleNamespace(experiment=writer), is_global_zero=True,
        global_step=7,
    )  # fmt: skip
    raw = torch.full((1, 1, 4, 6, 5), 0.4)
    raw[..., 0] = 1.5
    target = torch.zeros(1, 3, 4, 6, 5, dtype=torch.uint8)
    target[:, 0, 2, 1] = 1
    target[:, :, 2, 2] = 255
    logits = torch.full((1, 3, 4, 6, 5), -1.0)
    logits[:, 2, 2, 5] = 1
    outputs = {"raw": raw, "target": target, "logits": logits}
    for index in range(3):
        ExampleSlices().on_validation_batch_end(trainer, tiny_task(), outputs, None, index)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    (event,) = events.Images("raw, ground truth, prediction")
    assert event.step == 7
    found = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert found.shape == (6, 5 + 4 + 5 + 4 + 5, 3)
    assert (found[:, [0, 5, 8, 9, 14, 17, 18]][[0, 3, 4]] == 255).all()
    assert (found[:, 1:5] == 102).all()
    mixed = {name: 255 * (0.2 + np.multiply(rgb_of(style_of(name).color), 0.5)) for name in
             ("mito", "pm")}  # fmt: skip
    assert np.abs(found[1, 10:14] - mixed["mito"]).max() <= 1
    assert (found[2, 9:14] == 127).all()
    assert np.abs(found[5, 19:] - mixed["pm"]).max() <= 1
