"""Steps of a training whose loss is not finite change no weight, in any precision."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch

from tests.gpu.drawn import read_last, read_metrics
from tests.support.faults import Faults

pytestmark = pytest.mark.gpu

STEPS, SPOILED = 12, 8


class Weights(pl.Callback):
    """Keeps the weights after each step, and whether the step was skipped."""

    def on_train_start(self, trainer, task):
        self.skipped, self.weights = [], []

    def on_train_batch_end(self, trainer, task, *_):
        self.skipped.append(task.step_is_skipped)
        self.weights.append(torch.cat([w.detach().flatten() for w in task.network.parameters()]))


@pytest.mark.parametrize("kind", ["raw", "loss"])
@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(drawn, folder, device, precision, kind):
    training = drawn.training(
        "monai_unet_quick", STEPS, precision=precision, accumulate_grad_batches=1, batch_size=1,
        patch_size=32,
    )  # fmt: skip
    kept = Weights()
    drawn.train(training, folder, [Faults({SPOILED: kind}), kept])
    (row,) = read_metrics(folder)
    assert row["skipped_steps"] == 1
    scaled = precision == "16-mixed" and device.type == "cuda"
    assert ("overflow_steps" in row) == scaled
    assert sum(kept.skipped) == 1 + row.get("overflow_steps", 0)
    assert kept.skipped[SPOILED]
    assert math.isfinite(row["train_loss"])
    for step in range(1, STEPS):
        same = torch.equal(kept.weights[step], kept.weights[step - 1])
        assert same == kept.skipped[step]
    assert not kept.skipped[-1]
    assert all(values.isfinite().all() for values in read_last(folder)["state_dict"].values())
