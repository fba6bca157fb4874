"""Training in several processes; Lightning starts the others by the script's own name."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training import train as module
from cellmap_pipeline.training.devices import resolve_precision
from cellmap_pipeline.training.interruption import EXIT_CODE
from cellmap_pipeline.training.train import train
from tests.support.trainings import make_datasplit, settings

SCRIPT = """
import sys
from pathlib import Path
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.run.jobs import job

folder = Path(sys.argv[1])
with job(str(folder / "train.log")):
    from cellmap_pipeline.training.train import train
    training = Training.model_validate_json(Path(sys.argv[3]).read_text())
    train(training, Path(sys.argv[2]), folder / "training", folder / "model.ckpt")
"""


@pytest.fixture
def begin(tmp_path):
    """Function that starts a training of two processes in a folder."""
    datasplit = make_datasplit(tmp_path)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def begin(folder, **changes):
        (tmp_path / folder).mkdir(exist_ok=True)
        values = tmp_path / folder / "settings.json"
        values.write_text(settings(devices=2, **changes).model_dump_json())
        # Lightning must not mistake a job step of Slurm for its own launcher.
        slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "snakejob"}
        slurm |= {"SLURM_LOCALID": "0", "SLURM_JOB_ID": "1", "SLURM_NODELIST": "n"}
        return subprocess.Popen(
            [sys.executable, script, tmp_path / folder, datasplit, values],
            env=os.environ | slurm | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def weights(folder: Path):
    last = torch.load(folder / "training/checkpoints/last.ckpt", weights_only=True)
    return last["global_step"], last["state_dict"]


@pytest.mark.slow
def test_two_processes_train_one_network_and_resume(begin, tmp_path):
    process = begin("whole", epochs=3, iterations_per_epoch=8)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    with (tmp_path / "whole/training/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    # Only the first process writes the log.
    assert (tmp_path / "whole/train.log").read_text().count("parameters on 1 crops") == 1

    # Interrupted by a signal to the first process alone, it resumes, with the same result.
    process = begin("parts", epochs=3, iterations_per_epoch=8)
    last = tmp_path / "parts/training/checkpoints/last.ckpt"
    while not last.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODE, errors
    assert not (tmp_path / "parts/model.ckpt").exists()
    process = begin("parts", epochs=3, iterations_per_epoch=8)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "resuming from" in (tmp_path / "parts/train.log").read_text()
    (steps, one), (same, other) = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert steps == same == 12
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_two_processes_train_like_one_with_twice_the_batch(begin, tmp_path):
    """Gradients are averaged, and no patch is drawn twice."""
    changes = {"epochs": 1, "iterations_per_epoch": 2, "accumulate_grad_batches": 1,
               "gradient_clip": 0, "validation_iterations": 50, "optimizer": "sgd", "loss": "bce",
               "model": {"architecture": "monai_segresnet", "init_filters": 8,
                         "blocks_down": [1, 1]}}  # fmt: skip
    process = begin("two", **changes)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    one = tmp_path / "one"
    one.mkdir()
    train(
        settings(**changes, batch_size=2), tmp_path / "datasplit.csv", one / "training",
        one / "model.ckpt",
    )  # fmt: skip
    (steps, alone), (same, both) = weights(one), weights(tmp_path / "two")
    assert steps == same == 2
    with (tmp_path / "two/training/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    with (one / "training/metrics.csv").open() as file:
        (expected,) = csv.DictReader(file)
    for key in ("train_loss", "val_loss", "val_dice"):
        assert float(row[key]) == pytest.approx(float(expected[key]), rel=1e-2)
    for key in alone:
        torch.testing.assert_close(alone[key], both[key], rtol=1e-3, atol=1e-5)


def test_more_gpus_than_available(datasplit, tmp_path, monkeypatch):
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
def test_precision_on_a_gpu(monkeypatch, configured, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert resolve_precision(configured) == expected
