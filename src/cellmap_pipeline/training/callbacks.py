"""Callbacks: metrics, progress, the checkpoints to keep, and early stopping."""

from __future__ import annotations

import csv
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar

from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.patches.loader import PatchLoader
from cellmap_pipeline.training.checkpoints import list_checkpoints

METRICS_FILE = "metrics.csv"
STEP_LOSS = "train_loss_step"
# Keys of paths in the state of Lightning's `ModelCheckpoint`.
PATH_KEYS = ("best_model_path", "kth_best_model_path", "last_model_path")


class EpochTable(pl.Callback):
    """Writes a row per epoch to `metrics.csv`, and logs loss and speed of the epoch.

    A resumed training appends to the table. Columns: `epoch`, `step` (of the optimizer),
    `train_loss`, `val_loss`, `val_dice` (minus `val_loss` where no class occurs in validation
    patches), `val_dice/{channel}`, `skipped_steps` (optimizer steps whose loss or gradient was not
    finite), `overflow_steps` (with `16-mixed`: steps skipped by the gradient scaler),
    `learning_rate`, `seconds` (of the epoch with its validation), `patches_per_second` (trained on
    by all processes) and `data_wait` (the fraction of the training time spent waiting for patches).
    Without validation, there is no column `val_…`. If the epoch was resumed in its middle, the last
    three cover only the time since then.
    """

    def __init__(self, path: Path, loader: PatchLoader) -> None:
        self.path = path
        self.loader = loader
        self.begin = self.training_s = 0.0
        self.patches = 0
        self.waited_before_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock, also for an epoch that is resumed in its middle."""
        self._restart()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._restart()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Count the patches."""
        self.patches += self.loader.batch_size * trainer.world_size
        self.training_s = time.monotonic() - self.begin

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        """Log the epoch's loss and speed, and write its row; replace an earlier one."""
        seconds = max(self.training_s, 1e-9)
        waited = (self.loader.waited_s - self.waited_before_s) / seconds
        loss = task.pop_epoch_loss()
        task.log_dict(
            {
                "train_loss": loss,
                "patches_per_second": self.patches / seconds,
                "data_wait": min(1.0, waited),
            }
            | task.pop_skipped_steps()
        )
        if not trainer.is_global_zero:
            return
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        metrics = trainer.callback_metrics
        row |= {key: float(metrics[key]) for key in metrics if key != STEP_LOSS}
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = round(time.monotonic() - self.begin, 3)
        self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        """Write the table with a row appended, without earlier rows of that epoch or later ones."""
        rows = [row]
        if self.path.is_file():
            with self.path.open(newline="") as file:
                rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
            rows.append(row)
        columns = dict.fromkeys(column for row in rows for column in row)
        with atomic_write(self.path) as tmp, tmp.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def _restart(self) -> None:
        self.begin = time.monotonic()
        self.patches, self.training_s = 0, 0.0
        self.waited_before_s = self.loader.waited_s


class TimeLeftBar(TQDMProgressBar):
    """Lightning's progress bar per epoch, with the time left of the whole training."""

    def __init__(self, every_steps: int) -> None:
        super().__init__(refresh_rate=every_steps)
        self.begin = 0.0
        self.batches_before = 0

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Start the clock."""
        super().on_train_start(trainer, *args)
        self.begin, self.batches_before = time.monotonic(), self._done_batches(trainer)

    def get_metrics(self, trainer: pl.Trainer, task: pl.LightningModule) -> dict[str, Any]:
        """Return the values shown after the bar; `run.progress` parses the time left."""
        shown = super().get_metrics(trainer, task)
        shown.pop("v_num", None)
        total_done = self._done_batches(trainer)
        done = total_done - self.batches_before
        if done and trainer.max_epochs:
            left = trainer.max_epochs * int(trainer.num_training_batches) - total_done
            seconds = (time.monotonic() - self.begin) / done * left
            shown["all done in"] = str(timedelta(seconds=round(seconds)))
        return shown

    @staticmethod
    def _done_batches(trainer: pl.Trainer) -> int:
        """Number of batches done in all epochs."""
        return trainer.fit_loop.total_batch_idx + 1


class KeptCheckpoints(ModelCheckpoint):
    """Keeps the checkpoints of the epochs with the highest value of `monitor`.

    Its state names them without their folder, which may be moved or mounted elsewhere.

    Parameters
    ----------
    folder
        Folder of the checkpoints.
    number
        How many checkpoints are kept.
    monitor
        Name of the metric to compare epochs by, or `epoch`.
    filename
        Lightning's template of the checkpoints' names.
    """

    def __init__(self, folder: Path, number: int, monitor: str, filename: str) -> None:
        super().__init__(
            folder,
            filename=filename,
            monitor=monitor,
            mode="max",
            save_top_k=number,
            auto_insert_metric_name=False,
            # An epoch that is repeated after a kill overwrites its file.
            enable_version_counter=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the list of the kept checkpoints, by file name."""
        state = super().state_dict()
        state |= {key: Path(state[key]).name for key in PATH_KEYS}
        models = {Path(path).name: value for path, value in state["best_k_models"].items()}
        return state | {"dirpath": None, "best_k_models": models}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the list, without files that the killed job had removed already.

        Older checkpoints name files with the folder that they were in.
        """
        assert self.dirpath
        paths = {path.name: str(path) for path in list_checkpoints(Path(self.dirpath))}
        values = {Path(path).name: value for path, value in state_dict["best_k_models"].items()}
        present = {paths[name]: value for name, value in values.items() if name in paths}
        best = max(present, key=lambda path: float(present[path]), default="")
        worst = min(present, key=lambda path: float(present[path]), default="")
        super().load_state_dict(
            state_dict
            | {
                "dirpath": self.dirpath,
                "best_k_models": present,
                "best_model_path": best,
                "kth_best_model_path": worst,
                "last_model_path": "",
            }
        )


# Checkpoints store the state of the callbacks below under the names of their classes: under other
# names, the state of trainings that are resumed would be lost.


class BestCheckpoints(KeptCheckpoints):
    """Keeps the checkpoints with the best validation Dice."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder, number, "val_dice", "{epoch}-{val_dice:.4f}")


class LatestCheckpoints(KeptCheckpoints):
    """Keeps the checkpoints of the latest epochs, for trainings without validation."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder, number, "epoch", "{epoch}")


class Patience(EarlyStopping):
    """Early stopping that also holds if the training was killed right after it."""

    def on_fit_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop at once if an earlier job had reached early stopping."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
