import csv
import errno
import os
import random
import signal
import time

import pytest
import torch

from cellmap_pipeline.errors import UnavailableError
from cellmap_pipeline.training.interruption import (
    EXIT_CODE,
    STOP_SIGNALS,
    LastCheckpoint,
    find_resumable,
)
from cellmap_pipeline.training.train import train
from tests.support.runs import wait_until
from tests.support.spoiled import pattern
from tests.support.trainings import all_train, make_datasplit, settings, start, warm_up

# Long enough to be interrupted, with all options whose state must be restored.
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
NONE_READABLE = "last.ckpt cannot be read now (…): …. To train from the beginning, move … away"


@pytest.fixture
def datasplit(tmp_path):
    return make_datasplit(tmp_path)


def run(training, datasplit, folder):
    """Train to the end; return the seconds that it took."""
    begin = time.monotonic()
    process = start(training, datasplit, folder)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - begin


def interrupt(training, datasplit, folder, number, after):
    """Start, send a signal after some seconds, wait; return whether it interrupted the training."""
    process = start(training, datasplit, folder)
    process.join(after)
    if process.exitcode is not None:
        assert process.exitcode == 0
        return False
    begin = time.monotonic()
    os.kill(process.pid, number)
    process.join()
    assert time.monotonic() - begin < 20
    # While data are being opened, a signal kills immediately.
    assert process.exitcode in (EXIT_CODE, -number, 0)
    return process.exitcode != 0


def state(folder):
    return torch.load(folder / "training/checkpoints/last.ckpt", weights_only=True)


def rows(folder):
    measured = ("seconds", "patches_per_second", "data_wait")
    with (folder / "training/metrics.csv").open() as file:
        found = list(csv.DictReader(file))
    return [{key: row[key] for key in row if key not in measured} for row in found]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.slow
@pytest.mark.parametrize("validation", ["held_out", "none"])
def test_kills_at_random_moments_do_not_change_the_result(datasplit, tmp_path, validation):
    """Up to five trainings are killed, in total at least five times."""
    if validation == "none":
        datasplit = all_train(datasplit)
    warm_up()
    kills = 0
    for seed in range(5):
        kills += compare(datasplit, tmp_path / str(seed), seed, validation)
        if kills >= 5:
            return
    pytest.fail(f"only {kills} of the trainings were hit before they ended")


def compare(datasplit, folder, seed, validation):
    """Check that kills at random moments do not change the result; return their number."""
    folder.mkdir()
    rng = random.Random(seed)
    training = settings(**LONG, seed=seed, checkpoint_minutes=1e-6, validation=validation)
    seconds = run(training, datasplit, folder / "whole")
    parts = folder / "parts"
    kills = 0
    while kills < 5:
        number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
        if not interrupt(training, datasplit, parts, number, rng.uniform(0, 0.7 * seconds)):
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


def test_a_truncated_checkpoint_is_renamed(tmp_path):
    checkpoint(tmp_path / "0-0.5.ckpt", global_step=1)
    checkpoint(tmp_path / "last.ckpt", global_step=2)
    assert find_resumable(tmp_path) == (tmp_path / "last.ckpt", 2)
    whole = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    assert find_resumable(tmp_path) == (tmp_path / "0-0.5.ckpt", 1)
    assert (tmp_path / "last.ckpt.unreadable").is_file()
    assert find_resumable(tmp_path / "nowhere") is None


@pytest.fixture
def failing_load(monkeypatch):
    """A function that makes torch fail to load the files with a name, or all of them."""
    load = torch.load

    def fail(error, name=""):
        def load_unless_it_fails(file, *arguments, **options):
            if name in file.name:
                raise error
            return load(file, *arguments, **options)

        monkeypatch.setattr(torch, "load", load_unless_it_fails)

    return fail


def test_checkpoint_is_read_on_a_file_system_without_mmap(tmp_path, monkeypatch):
    checkpoint(tmp_path / "last.ckpt", global_step=2)
    load = torch.load

    def load_without_mmap(*arguments, mmap=None, **options):
        if mmap:
            raise RuntimeError(
                "unable to mmap 900 bytes from file <last.ckpt>: No such device (19)"
            )
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", load_without_mmap)
    assert find_resumable(tmp_path).step == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "Stale file handle"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "Permission denied"),
        (MemoryError(), "Cannot allocate memory"),
        # That of torch.
        (RuntimeError("error code 12 (Cannot allocate memory)"), "Cannot allocate memory"),
    ],
    ids=repr,
)
def test_a_training_does_not_start_over_when_no_checkpoint_can_be_read(
    tmp_path, failing_load, error, reason
):
    for name in ("0-0.5", "last"):
        checkpoint(tmp_path / f"{name}.ckpt", global_step=2)
    failing_load(error)
    with pytest.raises(UnavailableError, match=pattern(NONE_READABLE)) as raised:
        find_resumable(tmp_path)
    assert reason in str(raised.value)
    assert sorted(os.listdir(tmp_path)) == ["0-0.5.ckpt", "last.ckpt"]


def test_one_checkpoint_that_cannot_be_read_now_is_left_alone(tmp_path, failing_load):
    checkpoint(tmp_path / "0-0.5.ckpt", global_step=1)
    checkpoint(tmp_path / "last.ckpt", global_step=2)
    failing_load(OSError(errno.EIO, os.strerror(errno.EIO)), "last.ckpt")
    assert find_resumable(tmp_path).path.name == "0-0.5.ckpt"
    assert (tmp_path / "last.ckpt").is_file()


def test_folder_of_checkpoints_that_cannot_be_read_now_is_an_error(tmp_path, monkeypatch):
    checkpoint(tmp_path / "last.ckpt", global_step=2)

    def fail(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, fail)
    with pytest.raises(UnavailableError, match="Permission denied"):
        find_resumable(tmp_path)


def test_partial_checkpoint_of_a_killed_job_is_removed(tmp_path):
    (tmp_path / "3-0.5.ckpt.partial").touch()
    assert find_resumable(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_training_resumes_from_another_checkpoint_if_the_last_is_truncated(datasplit, tmp_path):
    training = settings(**LONG)
    run(training, datasplit, tmp_path / "whole")
    process = start(training, datasplit, tmp_path / "parts")
    metrics = tmp_path / "parts/training/metrics.csv"
    # In its last epoch, when there are other checkpoints.
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
def test_training_stops_on_a_signal_and_resumes(datasplit, tmp_path, monkeypatch, where):
    """It can stop in several hooks, and a second signal changes nothing."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training = settings()
    for folder in (whole, parts):
        folder.mkdir()
    train(training, datasplit, whole / "training", whole / "model.ckpt")
    hook = getattr(LastCheckpoint, where)
    signals_sent = []

    def send_signals_once(self, *args, **kwargs):
        if not signals_sent:
            signals_sent.append(os.kill(os.getpid(), signal.SIGUSR1))
            os.kill(os.getpid(), signal.SIGTERM)
        return hook(self, *args, **kwargs)

    monkeypatch.setattr(LastCheckpoint, where, send_signals_once)
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(SystemExit) as ended:
        train(training, datasplit, parts / "training", parts / "model.ckpt")
    assert ended.value.code == EXIT_CODE
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers
    assert not (parts / "model.ckpt").exists()
    train(training, datasplit, parts / "training", parts / "model.ckpt")
    assert same(state(whole)["state_dict"], state(parts)["state_dict"])
    assert rows(whole) == rows(parts)


@pytest.mark.parametrize("epoch", [0, 1])
def test_training_killed_between_the_best_and_the_last_checkpoint_resumes(
    datasplit, tmp_path, monkeypatch, epoch
):
    """An epoch that was killed between its validation and its end is completed when resumed."""
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


def test_training_without_validation_that_was_killed_equals_an_uninterrupted_one(
    datasplit, tmp_path, monkeypatch
):
    """Killed in an epoch's last step and between its two checkpoints, it exports the same bytes."""
    datasplit = all_train(datasplit)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training = settings(validation="none", epochs=3, ema=0.9, scheduler="cosine", save_top_k=2)
    for folder in (whole, parts):
        folder.mkdir()
    train(training, datasplit, whole / "training", whole / "model.ckpt")
    for where, last_batch in (("on_train_batch_end", 7), ("on_train_epoch_end", 11)):
        hook = getattr(LastCheckpoint, where)

        def die(self, trainer, *args, hook=hook, last_batch=last_batch):
            if trainer.fit_loop.total_batch_idx == last_batch:
                raise MemoryError
            hook(self, trainer, *args)

        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(LastCheckpoint, where, die)
            train(training, datasplit, parts / "training", parts / "model.ckpt")
    train(training, datasplit, parts / "training", parts / "model.ckpt")
    assert (whole / "model.ckpt").read_bytes() == (parts / "model.ckpt").read_bytes()
    assert rows(whole) == rows(parts)
    for folder in (whole, parts):
        kept = sorted(os.listdir(folder / "training/checkpoints"))
        assert kept == ["1.ckpt", "2.ckpt", "last.ckpt"]


def test_training_without_validation_survives_a_broken_last_checkpoint(datasplit, tmp_path):
    """The latest epoch's checkpoint takes its place, also after the training's end."""
    datasplit = all_train(datasplit)
    training = settings(validation="none")
    train(training, datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    exported = (tmp_path / "model.ckpt").read_bytes()
    (tmp_path / "training/checkpoints/last.ckpt").write_bytes(b"PK")
    train(training, datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    assert (tmp_path / "model.ckpt").read_bytes() == exported


def test_a_training_that_stopped_early_stays_stopped(datasplit, tmp_path):
    training = settings(epochs=30, early_stopping_patience=1, learning_rate=1e-9)
    for _ in range(2):
        train(training, datasplit, tmp_path / "training", tmp_path / "model.ckpt")
        assert 1 < len(rows(tmp_path)) < 30
        (tmp_path / "model.ckpt").unlink()
        stopped = rows(tmp_path)
    assert rows(tmp_path) == stopped
