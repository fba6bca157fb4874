"""A training that was killed resumes, and two processes train on two GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.gpu.drawn import read_last, read_metrics
from tests.support.trainings import make_datasplit, settings

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
SCRIPT = """
import logging
import sys
from pathlib import Path
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.training.train import train

logging.basicConfig(level=logging.INFO)
folder = Path(sys.argv[1])
training = Training.model_validate_json((folder / "settings.json").read_text())
train(training, Path(sys.argv[2]), folder / "training", folder / "model.ckpt")
"""
TIMEOUT_S = 300
# Nothing is random but the patches, and the loss is a mean over all voxels of a batch.
CHANGES = {
    "precision": "32",
    "epochs": 2,
    "iterations_per_epoch": 8,
    "accumulate_grad_batches": 2,
    "validation_iterations": 20,
    "augment": {"scaling": 0},
    "ema": 0.9,
    "loss": "bce",
    "optimizer": "sgd",
    "model": {"architecture": "monai_segresnet", "init_filters": 8, "blocks_down": [1, 1]},
}


@pytest.fixture
def begin(tmp_path, device):
    """Function that starts a training in a new process, in a folder."""
    datasplit = make_datasplit(tmp_path)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])

    def begin(folder, **changes):
        folder.mkdir(exist_ok=True)
        training = settings(**CHANGES | changes)
        (folder / "settings.json").write_text(training.model_dump_json())
        with (folder / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, script, folder, datasplit],
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    return begin


def finish(process, folder):
    process.wait(TIMEOUT_S)
    assert process.returncode == 0, (folder / "log").read_text()[-3000:]


def assert_alike(folder, other):
    """On GPUs, sums are rounded in another order each time."""
    assert read_last(folder)["global_step"] == read_last(other)["global_step"] > 0
    rows, expected = read_metrics(folder), read_metrics(other)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, same in zip(rows, expected, strict=True):
        assert row.keys() == same.keys()
        for key in ("train_loss", "val_loss", "val_dice"):
            assert row[key] == pytest.approx(same[key], rel=0.02, abs=0.005), key


def test_a_killed_training_resumes_with_the_same_result(begin, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(begin(whole), whole)
    process = begin(parts, checkpoint_minutes=1e-6)
    last = parts / "training/checkpoints/last.ckpt"
    deadline = time.monotonic() + TIMEOUT_S
    while not last.exists():
        assert process.poll() is None, (parts / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (parts / "model.ckpt").exists()
    assert 0 < read_last(parts)["global_step"] < 8
    finish(begin(parts, checkpoint_minutes=1e-6), parts)
    assert "resuming from" in (parts / "log").read_text()
    assert_alike(parts, whole)


def test_two_gpus_train_like_one_with_twice_the_batch(begin, device, tmp_path):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU")
    one, two = tmp_path / "one", tmp_path / "two"
    changes = {"iterations_per_epoch": 4, "epochs": 1}
    finish(begin(one, batch_size=2, **changes), one)
    finish(begin(two, devices=2, **changes), two)
    assert_alike(two, one)
