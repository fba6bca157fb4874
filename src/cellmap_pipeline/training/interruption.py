"""A training that is stopped at any moment goes on from `last.ckpt`, losing next to nothing.

It is written by time, at the end of each epoch, before the last step of each epoch (what follows
is a validation, which may take long), and when a signal asks the training to end.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from cellmap_pipeline.io.files import settle

log = logging.getLogger(__name__)

# What ends a job: the time limit and `scancel` (TERM), the warning before it (USR1), Ctrl-C (INT).
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# sysexits.h's EX_TEMPFAIL: not finished, to be tried again.
EXIT_CODE = 75
LAST = "last.ckpt"
READ_ERRORS = (RuntimeError, EOFError, OSError, ValueError, KeyError, UnpicklingError)


class Interrupted(SystemExit):
    """The training was asked to end and has written its checkpoint."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, and ends the training after a signal.

    A checkpoint is written between optimiser steps only, when no gradients wait to be added up.
    Processes that train together decide together.

    Parameters
    ----------
    path
        Of the checkpoint.
    minutes
        Between two of them within an epoch.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path = path
        self.seconds = 60 * minutes
        self.signal: signal.Signals | None = None
        self._written = time.monotonic()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """End here if a signal came while data were opened."""
        # Lightning has put its own handlers before ours meanwhile.
        for number in SIGNALS:
            signal.signal(number, self._note)
        self._end_if_asked(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimiser step: write a checkpoint where one is due."""
        done, every = batch_idx + 1, trainer.accumulate_grad_batches
        batches = int(trainer.num_training_batches)
        if done == batches:
            # What goes on from here would not validate this epoch.
            self._end_if_asked(trainer)
        elif done % every == 0:
            stop = _any_rank(trainer, self.signal is not None)
            due = _any_rank(trainer, time.monotonic() - self._written > self.seconds)
            if stop or due or done + every >= batches:
                self._write(trainer)
            if stop:
                raise Interrupted

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """End if asked to: all that was trained is kept but for the epoch's last step."""
        # Processes that train together need not have the same number of tiles to ask each other.
        if trainer.world_size == 1:
            self._end_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write a checkpoint, validation included."""
        self._write(trainer)
        self._end_if_asked(trainer)

    def _note(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        if self.signal is None:
            log.info("%s: the training ends after this step", signal.Signals(number).name)
        self.signal = signal.Signals(number)

    def _end_if_asked(self, trainer: pl.Trainer) -> None:
        if _any_rank(trainer, self.signal is not None):
            log.info("ending; the next start goes on from %s", self.path)
            raise Interrupted

    def _write(self, trainer: pl.Trainer) -> None:
        beside = self.path.with_suffix(".partial")
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            settle(beside, self.path)
        self._written = time.monotonic()


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from: `last.ckpt`, or the newest; what cannot be read is set aside.

    A broken disk or a node that died can leave one that is cut short. One of the best may be newer
    than `last.ckpt`, but what goes on from it would not end its epoch.
    """

    def merit(path: Path) -> tuple[bool, int]:
        return path.name == LAST, path.stat().st_mtime_ns

    for path in sorted(folder.glob("*.ckpt"), key=merit, reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)["loops"]
        except READ_ERRORS as error:
            aside = path.with_name(path.name + ".unreadable")
            path.rename(aside)
            log.warning("%s cannot be read (%s): kept as %s", path, error, aside.name)
        else:
            return path
    return None


def _any_rank(trainer: pl.Trainer, decision: bool) -> bool:
    if trainer.world_size == 1:
        return decision
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))
