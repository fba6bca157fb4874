import csv
import os
import random
import signal
import time

import pytest
import torch

from cellmap_pipeline.training.interruption import (
    EXIT_CODE,
    SIGNALS,
    LastCheckpoint,
    newest_checkpoint,
)
from cellmap_pipeline.training.train import train
from tests.support.runs import wait_until
from tests.support.trainings import make_datasplit, settings, start, warm_up

# Long enough to be hit in the middle, and all that could tell two runs apart.
LONG = {
    "epochs": 3,
    "iterations_per_epoch": 8,
    "model": {
        "architecture": "monai_basic_unet3d", "features": [8, 8, 8, 8, 8, 8], "dropout": 0.2
    },
    "scheduler": {"name": "cosine", "warmup_steps": 2},
    "augment": {"rotate": 180, "noise": 0.1},
    "ema": 0.9,
}  # fmt: skip


@pytest.fixture
def datasplit(tmp_path):
    return make_datasplit(tmp_path)


def run(training, datasplit, folder):
    """Train to the end; the seconds that it took."""
    begin = time.monotonic()
    process = start(training, datasplit, folder)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - begin


def interrupt(training, datasplit, folder, number, after):
    """Start, send a signal after some seconds, wait for the end: whether it came in time."""
    process = start(training, datasplit, folder)
    process.join(after)
    if process.exitcode is not None:
        assert process.exitcode == 0
        return False
    begin = time.monotonic()
    os.kill(process.pid, number)
    process.join()
    assert time.monotonic() - begin < 20
    # While the data are opened yet, a signal kills at once.
    assert process.exitcode in (EXIT_CODE, -number, 0)
    return process.exitcode != 0


def state(folder):
    return torch.load(folder / "training/checkpoints/last.ckpt", weights_only=True)


def rows(folder):
    kept = ("epoch", "step", "train_loss", "val_loss", "val_dice", "val_dice/mito", "learning_rate")
    with (folder / "training/metrics.csv").open() as file:
        return [{key: row[key] for key in kept} for row in csv.DictReader(file)]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.slow
def test_killed_at_random_it_ends_as_if_it_never_was(datasplit, tmp_path):
    """Ten kills and more, over as many trainings as it takes."""
    warm_up()
    kills = 0
    for seed in range(10):
        kills += compare(datasplit, tmp_path / str(seed), seed)
        if kills >= 10:
            return
    pytest.fail(f"only {kills} of the trainings were hit before they ended")


def compare(datasplit, folder, seed):
    """Train without and with kills at random moments, see that both end the same: the kills."""
    folder.mkdir()
    chance = random.Random(seed)
    training = settings(**LONG, seed=seed, checkpoint_minutes=1e-6)
    seconds = run(training, datasplit, folder / "whole")
    parts = folder / "parts"
    kills = 0
    while kills < 5:
        number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
        if not interrupt(training, datasplit, parts, number, chance.uniform(0, 0.7 * seconds)):
            break
        kills += 1
    run(training, datasplit, parts)
    one, other = state(folder / "whole"), state(parts)
    for key in (
        "epoch", "global_step", "state_dict", "current_model_state", "optimizer_states",
        "lr_schedulers", "loops",
    ):  # fmt: skip
        assert same(one[key], other[key]), key
    assert one["global_step"] == 12
    models = [torch.load(folder / f"{name}/model.ckpt", weights_only=True) for name in
              ("whole", "parts")]  # fmt: skip
    assert same(models[0]["state_dict"], models[1]["state_dict"])
    assert rows(folder / "whole") == rows(parts)
    return kills


def checkpoint(path, **content):
    torch.save({"loops": {}} | content, path)


def test_a_half_written_checkpoint_is_set_aside(tmp_path):
    checkpoint(tmp_path / "0-0.5.ckpt", global_step=1)
    checkpoint(tmp_path / "last.ckpt", global_step=2)
    assert newest_checkpoint(tmp_path).name == "last.ckpt"
    whole = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    assert newest_checkpoint(tmp_path).name == "0-0.5.ckpt"
    assert (tmp_path / "last.ckpt.unreadable").is_file()
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_it_goes_on_from_another_where_the_last_is_cut_short(datasplit, tmp_path):
    training = settings(**LONG)
    run(training, datasplit, tmp_path / "whole")
    process = start(training, datasplit, tmp_path / "parts")
    metrics = tmp_path / "parts/training/metrics.csv"
    # In its last epoch, when there are others.
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 2)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == EXIT_CODE
    last = tmp_path / "parts/training/checkpoints/last.ckpt"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    run(training, datasplit, tmp_path / "parts")
    one, other = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert same(one["current_model_state"], other["current_model_state"])
    assert one["global_step"] == other["global_step"]


@pytest.mark.parametrize("where", ["on_train_start", "on_train_batch_end",
                                   "on_validation_batch_end", "on_train_epoch_end"])  # fmt: skip
def test_asked_to_end_it_ends_there_and_goes_on(datasplit, tmp_path, monkeypatch, where):
    """Each place at which it may end, with a signal that comes twice."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training = settings()
    for folder in (whole, parts):
        folder.mkdir()
    train(training, datasplit, whole / "training", whole / "model.ckpt")
    hook = getattr(LastCheckpoint, where)
    asked = []

    def ask_and_go_on(self, *args, **kwargs):
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGUSR1))
            os.kill(os.getpid(), signal.SIGTERM)
        return hook(self, *args, **kwargs)

    monkeypatch.setattr(LastCheckpoint, where, ask_and_go_on)
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(SystemExit) as ended:
        train(training, datasplit, parts / "training", parts / "model.ckpt")
    assert ended.value.code == EXIT_CODE
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert not (parts / "model.ckpt").exists()
    train(training, datasplit, parts / "training", parts / "model.ckpt")
    assert same(state(whole)["state_dict"], state(parts)["state_dict"])
    assert rows(whole) == rows(parts)


@pytest.mark.parametrize("epoch", [0, 1])
def test_killed_between_the_best_checkpoint_and_the_last(datasplit, tmp_path, monkeypatch, epoch):
    """An epoch that had its validation, but not its end, is ended by the next start."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training = settings()
    for folder in (whole, parts):
        folder.mkdir()
    train(training, datasplit, whole / "training", whole / "model.ckpt")
    hook = LastCheckpoint.on_train_epoch_end

    def die(self, trainer, *args):
        if trainer.current_epoch == epoch:
            raise MemoryError
        hook(self, trainer, *args)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(LastCheckpoint, "on_train_epoch_end", die)
        train(training, datasplit, parts / "training", parts / "model.ckpt")
    assert len(list((parts / "training/checkpoints").glob(f"{epoch}-*.ckpt"))) == 1
    train(training, datasplit, parts / "training", parts / "model.ckpt")
    one, other = state(whole), state(parts)
    assert one["global_step"] == other["global_step"] == 4
    assert same(one["state_dict"], other["state_dict"])
    assert rows(whole) == rows(parts)


def test_a_training_that_had_stopped_early_stays_stopped(datasplit, tmp_path):
    training = settings(epochs=30, early_stopping_patience=1, learning_rate=1e-9)
    for _ in range(2):
        train(training, datasplit, tmp_path / "training", tmp_path / "model.ckpt")
        assert 1 < len(rows(tmp_path)) < 30
        (tmp_path / "model.ckpt").unlink()
        stopped = rows(tmp_path)
    assert rows(tmp_path) == stopped
