"""Trainings in which a loss, a gradient or a weight is not finite."""

import csv
import math
import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training import skipping
from cellmap_pipeline.training.interruption import LastCheckpoint
from cellmap_pipeline.training.task import SegmentationTask
from cellmap_pipeline.training.train import train
from tests.support.faults import Faults
from tests.support.trainings import all_train, settings

# Six batches an epoch, in steps of two; the second epoch begins with batch 6.
LONG = {
    "iterations_per_epoch": 6,
    "scheduler": {"name": "cosine", "warmup_steps": 2},
    "checkpoint_minutes": 1e-6,
    "precision": "32",
}


def state(folder):
    return torch.load(folder / "training/checkpoints/last.ckpt", weights_only=True)


def rows(folder):
    measured = ("seconds", "patches_per_second", "data_wait")
    with (folder / "training/metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    return [{key: row[key] for key in row if key not in measured} for row in found]


def run(training, datasplit, folder, *callbacks):
    folder.mkdir(exist_ok=True)
    train(
        training, datasplit, folder / "training", folder / "model.ckpt", callbacks=callbacks
    )  # fmt: skip


def trained_without(training, faults, skipped):
    """Train on the same batches in a plain loop, without the steps `skipped`.

    Returns
    -------
    The weights, their moving average, the state of the optimizer, and the learning rate.
    """
    task = SegmentationTask(training_settings(training, TRAIN_KEYS))
    task.load_state_dict(faults.initial)
    task.network.to(memory_format=torch.channels_last_3d)
    configured = task.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    average = AveragedModel(task, use_buffers=True, avg_fn=get_ema_avg_fn(training.ema or 0.5))
    n = training.accumulate_grad_batches
    for step in range(len(faults.batches) // n):
        if step in skipped:
            continue
        optimizer.zero_grad()
        for batch in faults.batches[n * step : n * (step + 1)]:
            (task.training_step(batch, 0) / n).backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), training.gradient_clip)
        optimizer.step()
        scheduler.step()
        average.update_parameters(task)
    rate = optimizer.param_groups[0]["lr"]
    return task.state_dict(), average.module.state_dict(), optimizer.state_dict(), rate


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(expected[key])), key


@pytest.mark.parametrize(
    ("changes", "batches", "skipped"),
    [
        ({"ema": 0.9}, {0: "loss", 5: "gradient", 7: "loss"}, [0, 2, 3]),
        ({"accumulate_grad_batches": 1}, {1: "gradient", 2: "raw", 9: "loss"}, [1, 2, 9]),
        ({"optimizer": "sgd", "learning_rate": 1e-4, "ema": 0.9}, {2: "raw", 3: "gradient"}, [1]),
        # This network has running averages, which raw with NaN changes as well.
        (
            {"model": {"architecture": "monai_attention_unet", "channels": [4, 4]},
             "ema": 0.9},
            {4: "raw"}, [2],
        ),
    ],
    ids=["average", "single batches", "sgd", "buffers"],
)  # fmt: skip
def test_skipped_steps_change_nothing(datasplit, tmp_path, caplog, changes, batches, skipped):
    """The result is that of a plain loop in which these steps never took place."""
    training = settings(**LONG | changes)
    faults = Faults(batches)
    run(training, datasplit, tmp_path / "run", faults)
    last = state(tmp_path / "run")
    weights, average, optimizer, rate = trained_without(training, faults, skipped)
    assert_equal(last.get("current_model_state", last["state_dict"]), weights)
    if training.ema:
        assert_equal(last["state_dict"], average)
    for index, moments in optimizer["state"].items():
        assert_equal(last["optimizer_states"][0]["state"][index], moments)
    assert last["lr_schedulers"][0]["_last_lr"] == [rate]
    steps = 6 // training.accumulate_grad_batches
    assert last["global_step"] == 2 * steps
    found = rows(tmp_path / "run")
    first = sum(step < steps for step in skipped)
    assert [float(row["skipped_steps"]) for row in found] == [first, len(skipped) - first]
    assert all(math.isfinite(float(row["train_loss"])) for row in found)
    assert caplog.text.count("is skipped: its") == len({step < steps for step in skipped})
    assert caplog.text.count("optimizer steps were skipped") == len({s < steps for s in skipped})


def test_a_training_that_is_stopped_at_a_skipped_step_resumes(datasplit, tmp_path, monkeypatch):
    """The first batch after it would update the average, if it took the step for a new one."""
    training = settings(**LONG, ema=0.9)
    batches = {2: "loss", 3: "gradient", 8: "gradient"}
    run(training, datasplit, tmp_path / "whole", Faults(batches))
    hook = LastCheckpoint.on_train_batch_end

    def stop(self, trainer, *args):
        if trainer.fit_loop.total_batch_idx == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        hook(self, trainer, *args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(LastCheckpoint, "on_train_batch_end", stop)
        run(training, datasplit, tmp_path / "parts", Faults(batches))
    stopped = state(tmp_path / "parts")
    assert stopped["skipped_steps"] == {"faults": 1, "overflows": 0, "taken": 1, "in_a_row": 1}
    run(training, datasplit, tmp_path / "parts", Faults(batches))
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert_equal(parts[key], whole[key])
    assert parts["lr_schedulers"] == whole["lr_schedulers"]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    model = torch.load(tmp_path / "parts/model.ckpt", weights_only=True)
    assert "skipped_steps" not in model


def test_many_skipped_steps_in_a_row_end_the_training(datasplit, tmp_path, monkeypatch):
    monkeypatch.setattr(skipping, "MAX_SKIPPED_STEPS_IN_A_ROW", 3)
    training = settings(**LONG, accumulate_grad_batches=1)
    faults = [Faults({4: "loss", 5: "loss", 6: "gradient"}) for _ in range(2)]
    message = r"not finite .* in 3 steps in a row, up to step 6: lower `learning_rate` \(0.01\)"
    for fault in faults:  # Also when it resumes in between.
        with pytest.raises(InputError, match=message):
            run(training, datasplit, tmp_path / "run", fault)
    assert len(faults[1].batches) < len(faults[0].batches) == 7
    last = state(tmp_path / "run")
    assert last["global_step"] == 6
    assert skipping.first_nonfinite(last["state_dict"]) is None


def test_an_epoch_whose_steps_are_all_skipped_ends_the_training(datasplit, tmp_path):
    with pytest.raises(InputError, match=r"not finite .* in all steps of epoch 0: lower"):
        run(settings(**LONG), datasplit, tmp_path / "run", Faults({0: "loss", 3: "raw", 4: "loss"}))


class Spoiled(pl.Callback):
    """Sets a weight to infinity after a batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, trainer, task, *_):
        if trainer.fit_loop.total_batch_idx == self.batch:
            with torch.no_grad():
                next(task.network.parameters()).view(-1)[0] = torch.inf


@pytest.mark.parametrize(
    ("batch", "minutes"),
    [(8, 99), (7, 1e-6), (11, 99)],
    ids=["at the next step", "at a checkpoint", "at the end of the epoch"],
)
def test_weights_that_are_not_finite_end_the_training(datasplit, tmp_path, batch, minutes):
    """Checkpoints keep the weights of before."""
    training = settings(**LONG | {"checkpoint_minutes": minutes, "validation": "none"})
    message = r"step \d+: weights are not finite .* in network.*weight: lower `learning_rate`"
    with pytest.raises(InputError, match=message):
        run(training, all_train(datasplit), tmp_path / "run", Spoiled(batch))
    kept = list((tmp_path / "run/training/checkpoints").iterdir())
    assert {path.name for path in kept} == {"last.ckpt", "0.ckpt"}
    for path in kept:
        content = torch.load(path, weights_only=True)
        assert skipping.first_nonfinite(content["state_dict"]) is None


class LargeScale(pl.Callback):
    """Trains with the gradient scaler of `16-mixed`, whose scale is far too large at first."""

    def setup(self, trainer, *_, **__):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**28)
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)


def test_overflows_of_the_gradient_scaler_are_counted_apart(datasplit, tmp_path, caplog):
    training = settings(epochs=1, iterations_per_epoch=18, accumulate_grad_batches=1, ema=0.9)
    run(training, datasplit, tmp_path / "run", LargeScale(), Faults({16: "loss"}))
    (row,) = rows(tmp_path / "run")
    assert float(row["skipped_steps"]) == 1
    overflows = float(row["overflow_steps"])
    assert 3 < overflows < 16
    last = state(tmp_path / "run")
    taken = 18 - overflows - 1
    assert last["lr_schedulers"][0]["last_epoch"] == taken
    assert last["averaging_state"]["n_averaged"] == taken
    assert {float(entry["step"]) for entry in last["optimizer_states"][0]["state"].values()} == {
        taken
    }
    assert caplog.text.count("is skipped") == 1
