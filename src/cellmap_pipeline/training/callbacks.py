"""What a training shows of itself, which of its checkpoints it keeps, and when it stops early."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar

from cellmap_pipeline.classes import look_of
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.patches.loader import PatchLoader
from cellmap_pipeline.patches.targets import UNKNOWN

TABLE = "metrics.csv"
PER_STEP = "train_loss_step"


class EpochTable(pl.Callback):
    """Writes a row per epoch to `metrics.csv`, and what the others don't to TensorBoard.

    A training that goes on adds to it. Columns: `epoch`, `step` (of the optimiser), `train_loss`,
    `val_loss`, `val_dice`, `val_dice/{channel}`, `learning_rate`, `seconds` (the epoch with its
    validation), `patches_per_second` (trained on, by all processes) and `data_wait` (the share of
    that time that the training waited for patches); the last three count from the start where an
    epoch was taken up in its middle.
    """

    def __init__(self, path: Path, loader: PatchLoader) -> None:
        self.path = path
        self.loader = loader
        self.begin = self.trained = 0.0
        self.patches = 0
        self.waited = 0.0

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock, for an epoch that is taken up in its middle, too."""
        self._restart()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._restart()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Count the patches."""
        self.patches += self.loader.batch_size * trainer.world_size
        self.trained = time.monotonic() - self.begin

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        """Log the epoch's loss and speed, and add its row, in place of an earlier one."""
        seconds = max(self.trained, 1e-9)
        waited = (self.loader.waited - self.waited) / seconds
        loss = task.take_epoch_loss()
        if not loss.isfinite():
            settings = task.training_settings
            raise InputError(
                f"the loss of epoch {trainer.current_epoch} is not a finite number: lower "
                f"`learning_rate` ({settings.learning_rate:g}), raise `scheduler.warmup_steps` "
                f"({settings.scheduler.warmup_steps}), or set `precision: 32`"
            )
        task.log_dict(
            {
                "train_loss": loss,
                "patches_per_second": self.patches / seconds,
                "data_wait": min(1.0, waited),
            }
        )
        if not trainer.is_global_zero:
            return
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        metrics = trainer.callback_metrics
        row |= {key: float(metrics[key]) for key in metrics if key != PER_STEP}
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = round(time.monotonic() - self.begin, 3)
        table = pd.DataFrame([row])
        if self.path.is_file():
            earlier = pd.read_csv(self.path)
            table = pd.concat([earlier[earlier["epoch"] < row["epoch"]], table])
        beside = self.path.with_suffix(".partial")
        table.to_csv(beside, index=False)
        os.replace(beside, self.path)

    def _restart(self) -> None:
        self.begin = time.monotonic()
        self.patches, self.trained, self.waited = 0, 0.0, self.loader.waited


class ExampleSlices(pl.Callback):
    """Shows TensorBoard one validation tile per epoch: raw, truth and prediction of its middle.

    Classes have their colours of all figures; in the truth, grey is unknown.
    """

    def on_validation_batch_end(
        self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, index: int, *_: Any
    ) -> None:
        """Draw the tile in the middle of the list."""
        number = int(trainer.num_val_batches[0]) // 2
        if index != number or trainer.logger is None or not trainer.is_global_zero:
            return
        middle = outputs["raw"].shape[2] // 2
        raw, target, logits = (
            outputs[key][0, :, middle].float().cpu().numpy() for key in ("raw", "target", "logits")
        )
        classes = [
            i for i, name in enumerate(task.channels) if name in task.training_settings.classes
        ]
        colours = [to_rgb(look_of(task.channels[i]).colour) for i in classes]
        truth = paint(raw[0], target[classes] == 1, colours)
        truth[(target[classes] == UNKNOWN).all(0)] = 0.5
        found = paint(raw[0], logits[classes] > 0, colours)
        grey = np.repeat(raw[0][..., None], 3, axis=-1)
        gap = np.ones((len(grey), 4, 3))
        picture = np.concatenate([grey, gap, truth, gap, found], axis=1)
        trainer.logger.experiment.add_image(  # type: ignore[attr-defined]
            "raw, truth, prediction", picture, trainer.global_step, dataformats="HWC"
        )


class Progress(TQDMProgressBar):
    """Lightning's bar per epoch, with the time that the whole training still takes."""

    def __init__(self, every: int) -> None:
        super().__init__(refresh_rate=every)
        self.begin = 0.0
        self.first = 0

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Start the clock."""
        super().on_train_start(trainer, *args)
        self.begin, self.first = time.monotonic(), self._done(trainer)

    def get_metrics(self, trainer: pl.Trainer, task: pl.LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        shown = super().get_metrics(trainer, task)
        shown.pop("v_num", None)
        done = self._done(trainer) - self.first
        if done and trainer.max_epochs:
            left = trainer.max_epochs * int(trainer.num_training_batches) - self._done(trainer)
            seconds = (time.monotonic() - self.begin) / done * left
            shown["all done in"] = str(timedelta(seconds=round(seconds)))
        return shown

    @staticmethod
    def _done(trainer: pl.Trainer) -> int:
        """Batches done in all epochs."""
        return trainer.fit_loop.total_batch_idx + 1


def paint(
    raw: NDArray[np.floating], masks: NDArray[np.bool_], colours: list[tuple[float, float, float]]
) -> NDArray[np.floating]:
    """A slice (y, x) 0..1 in grey with masks (c, y, x) laid over it: (y, x, 3)."""
    picture = np.repeat(raw[..., None], 3, axis=-1).astype(np.float32)
    for mask, colour in zip(masks, colours, strict=True):
        picture[mask] = 0.5 * picture[mask] + 0.5 * np.array(colour, np.float32)
    return picture


class BestCheckpoints(ModelCheckpoint):
    """The checkpoints with the best validation Dice."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(
            folder,
            filename="{epoch}-{val_dice:.4f}",
            monitor="val_dice",
            mode="max",
            save_top_k=number,
            auto_insert_metric_name=False,
            # An epoch that is done again writes the same file again.
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on; what a killed job had removed already is none of the best."""
        there = {p: v for p, v in state_dict["best_k_models"].items() if Path(p).is_file()}
        super().load_state_dict(state_dict)
        self.best_k_models = there
        if there:
            self.best_model_path = max(there, key=lambda p: float(there[p]))
            self.kth_best_model_path = min(there, key=lambda p: float(there[p]))
        else:
            self.best_model_path = self.kth_best_model_path = ""


class Patience(EarlyStopping):
    """Early stopping that a training which was killed right after it keeps to."""

    def on_fit_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop at once where an earlier job had come to stop."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
