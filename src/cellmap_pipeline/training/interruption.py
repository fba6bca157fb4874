"""`last.ckpt`: a training that is stopped at any moment resumes from it and loses little.

It is written at intervals, at the end of each epoch, before the last step of each epoch (because
the validation that follows may take long), and when a signal asks the training to stop.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from cellmap_pipeline.errors import UnavailableError
from cellmap_pipeline.io.files import PARTIAL_SUFFIX, reading
from cellmap_pipeline.training.checkpoints import (
    BROKEN_ERRORS,
    list_checkpoints,
    read_checkpoint,
)
from cellmap_pipeline.training.skipping import any_rank

log = logging.getLogger(__name__)

# Sent by the time limit and `scancel` (TERM), as a warning before them (USR1; by LSF, URG), by
# Ctrl-C and `bkill` (INT).
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGURG, signal.SIGINT)
# EX_TEMPFAIL of sysexits.h: not finished, to be retried.
EXIT_CODE = 75
LAST_CHECKPOINT = "last.ckpt"


class Interrupted(SystemExit):
    """The training was asked to stop and has written its checkpoint."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt`, and stops the training after a signal.

    Checkpoints are written between optimizer steps only, when no gradients are accumulated.
    Processes that train together decide together.

    Parameters
    ----------
    path
        Path of the checkpoint.
    minutes
        Interval between checkpoints within an epoch.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path = path
        self.interval_s = 60 * minutes
        self.signal: signal.Signals | None = None
        self._written_at = time.monotonic()

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handle `STOP_SIGNALS` within the context."""
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop here if a signal arrived while the data were opened."""
        # Lightning has replaced our handlers in the meantime.
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        self._stop_if_requested(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint after an optimizer step if one is due."""
        done, every = batch_idx + 1, trainer.accumulate_grad_batches
        batches = int(trainer.num_training_batches)
        if done == batches:
            # No checkpoint: resuming from here would skip this epoch's validation.
            self._stop_if_requested(trainer)
        elif done % every == 0:
            stop = any_rank(trainer, self.signal is not None)
            due = any_rank(trainer, time.monotonic() - self._written_at > self.interval_s)
            if stop or due or done + every >= batches:
                self._write(trainer)
            if stop:
                self._stop()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        """Stop if requested; only the epoch's last step is lost."""
        # Several processes would have to agree here, for which they need the same number of tiles.
        if trainer.world_size == 1:
            self._stop_if_requested(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write a checkpoint that includes the validation."""
        self._write(trainer)
        self._stop_if_requested(trainer)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        if self.signal is None:
            log.info("%s: the training stops after this step", signal.Signals(number).name)
        self.signal = signal.Signals(number)

    def _stop_if_requested(self, trainer: pl.Trainer) -> None:
        if any_rank(trainer, self.signal is not None):
            self._stop()

    def _stop(self) -> NoReturn:
        log.info("stopping; the next start resumes from %s", self.path)
        raise Interrupted

    def _write(self, trainer: pl.Trainer) -> None:
        # All processes take part, but only the first one writes.
        trainer.save_checkpoint(self.path)
        self._written_at = time.monotonic()


class Resumable(NamedTuple):
    """A checkpoint to resume from.

    Attributes
    ----------
    path
        Path of the checkpoint.
    step
        Number of optimizer steps of the training so far.
    """

    path: Path
    step: int


def find_resumable(folder: Path) -> Resumable | None:
    """Find the checkpoint to resume from: `last.ckpt`, else the newest readable one.

    Broken checkpoints, such as truncated ones left by a broken disk or a crashed node, are renamed
    to `*.unreadable`. One of the best checkpoints may be newer than `last.ckpt`, but a training
    resumed from it would not complete its epoch.

    Raises
    ------
    UnavailableError
        There are checkpoints, but none can be read now.
    """

    def priority(path: Path) -> tuple[bool, int]:
        return path.name == LAST_CHECKPOINT, path.stat().st_mtime_ns

    with reading(folder):
        for tmp in folder.glob(f"*{PARTIAL_SUFFIX}"):  # Left by a killed job.
            tmp.unlink(missing_ok=True)
        paths = sorted(list_checkpoints(folder), key=priority, reverse=True)
    unavailable: list[UnavailableError] = []
    for path in paths:
        try:
            content = read_checkpoint(path)
            content["loops"]  # Only checkpoints of trainings have it.
            return Resumable(path, int(content["global_step"]))
        except UnavailableError as error:
            log.warning("%s", error)
            unavailable.append(error)
        except BROKEN_ERRORS as error:
            renamed = path.with_name(path.name + ".unreadable")
            path.rename(renamed)
            log.warning("%s is broken (%s): kept as %s", path, error, renamed.name)
    if unavailable:
        raise UnavailableError(f"{unavailable[0]}. To train from the beginning, move {folder} away")
    return None
