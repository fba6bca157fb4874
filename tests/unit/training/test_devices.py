"""Training in several processes; Lightning starts the others by the script's own name."""

import signal
import time

import pytest
import torch

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training import train as module
from cellmap_pipeline.training.devices import resolve_precision
from cellmap_pipeline.training.interruption import EXIT_CODE
from cellmap_pipeline.training.train import train
from tests.support.faults import Faults
from tests.support.trainings import REPRODUCIBLE, read_rows, read_weights, settings


def assert_like_one_with_twice_the_batch(two, changes, steps, faults=None):
    """Compare the training of two processes in folder `two` with that of one process.

    Rounding errors of the weights grow with each step.
    """
    one = two.with_name("one")
    one.mkdir()
    train(
        settings(**changes, batch_size=2), two.with_name("datasplit.csv"), one / "training",
        one / "model.ckpt", callbacks=[Faults(faults or {})],
    )  # fmt: skip
    (taken, alone), (same, both) = read_weights(one), read_weights(two)
    assert taken == same == steps
    for row, expected in zip(read_rows(two), read_rows(one), strict=True):
        for key in ("train_loss", "val_loss", "val_dice"):
            assert float(row[key]) == pytest.approx(float(expected[key]), rel=1e-2)
    for key in alone:
        torch.testing.assert_close(alone[key], both[key], rtol=1e-3, atol=1e-5 * steps)


@pytest.mark.slow
def test_two_interrupted_processes_resume_with_the_same_result(begin, tmp_path):
    """The signal is sent to the first process alone."""
    changes = REPRODUCIBLE | {"epochs": 2, "iterations_per_epoch": 4}
    process = begin("two", **changes)
    last = tmp_path / "two/training/checkpoints/last.ckpt"
    while not last.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODE, errors
    assert not (tmp_path / "two/model.ckpt").exists()
    # Only the first process writes the log.
    assert (tmp_path / "two/train.log").read_text().count("parameters on 1 crops") == 1
    process = begin("two", **changes)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "resuming from" in (tmp_path / "two/train.log").read_text()
    assert [row["epoch"] for row in read_rows(tmp_path / "two")] == ["0", "1"]
    assert_like_one_with_twice_the_batch(tmp_path / "two", changes, steps=8)


def test_two_processes_train_like_one_with_twice_the_batch(begin, tmp_path):
    """Gradients are averaged, and no patch is drawn twice."""
    changes = REPRODUCIBLE | {"epochs": 1, "iterations_per_epoch": 2}
    process = begin("two", **changes)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert_like_one_with_twice_the_batch(tmp_path / "two", changes, steps=2)


@pytest.mark.slow
def test_all_processes_skip_a_step_that_fails_in_one(begin, tmp_path):
    """A mean over the processes passes on a gradient, but not which loss it comes from."""
    changes = REPRODUCIBLE | {"epochs": 1, "iterations_per_epoch": 6, "accumulate_grad_batches": 2}
    faults = {2: "loss", 5: "gradient"}
    process = begin("two", faults, **changes)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    (row,) = read_rows(tmp_path / "two")
    assert float(row["skipped_steps"]) == 2
    assert_like_one_with_twice_the_batch(tmp_path / "two", changes, steps=3, faults=faults)


@pytest.mark.slow
def test_two_processes_end_together_when_nothing_is_finite(begin, tmp_path):
    changes = REPRODUCIBLE | {"epochs": 1, "iterations_per_epoch": 2}
    process = begin("two", {0: "loss", 1: "loss"}, **changes)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "in all steps of epoch 0" in (tmp_path / "two/train.log").read_text()


def test_more_gpus_than_available_are_refused(datasplit, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="devices: 2 GPUs are requested, but this machine has 1"):
        module._trainer(settings(devices=2), tmp_path, [], None)


@pytest.mark.parametrize(
    ("configured", "supported", "expected"),
    [
        ("mixed", True, "bf16-mixed"), ("mixed", False, "16-mixed"), ("32", True, "32"),
        ("16-mixed", True, "16-mixed"), ("bf16-mixed", True, "bf16-mixed"),
    ],
)  # fmt: skip
def test_mixed_precision_depends_on_the_gpu(monkeypatch, configured, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert resolve_precision(configured) == expected


@pytest.mark.parametrize("configured", ["mixed", "16-mixed", "bf16-mixed", "32"])
def test_networks_train_in_32_bits_without_a_gpu(monkeypatch, configured):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_precision(configured) == "32"
