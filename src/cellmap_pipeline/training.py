"""Training a network on the crops of a datasplit, with PyTorch Lightning."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, cast

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from cellmap_pipeline.classes import output_channels
from cellmap_pipeline.config import LossName, Training
from cellmap_pipeline.crops import open_crops
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.loading import loaders
from cellmap_pipeline.losses import build_loss
from cellmap_pipeline.models import build_model
from cellmap_pipeline.patches import Finisher, Patch
from cellmap_pipeline.plan import TRAIN_KEYS, training_settings
from cellmap_pipeline.state import claim, fingerprint_of
from cellmap_pipeline.targets import UNKNOWN

log = logging.getLogger(__name__)


class SegmentationTask(pl.LightningModule):
    """A network with its loss and its validation Dice per channel.

    Parameters
    ----------
    settings : a training's settings in plain builtins (`training_settings` with `TRAIN_KEYS`).
        They travel in the checkpoint, which is therefore enough to predict with.
    """

    counts: Tensor

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.training_settings = Training.model_validate(settings)
        self.channels = output_channels(self.training_settings.classes)
        self.network = build_model(
            self.training_settings.model,
            in_channels=1,
            out_channels=len(self.channels),
            patch_size=self.training_settings.patch_size,
        )
        self.loss = build_loss(dict(_weighted(self.training_settings.loss)))
        self._finish: Finisher | None = None
        # Voxels per channel: predicted and true, predicted, true.
        self.register_buffer("counts", torch.zeros(3, len(self.channels)), persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        """Logits (n, c, z, y, x) of raw (n, 1, z, y, x) in 0..1."""
        # The layout in which convolutions are fastest, on the CPU and on GPUs.
        return self.network(normalise(raw).contiguous(memory_format=torch.channels_last_3d))

    def transfer_batch_to_device(
        self, batch: list[Patch], device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Raw (n, 1, z, y, x) and targets (n, c, z, y, x), changed at random on the device."""
        settings = self.training_settings
        if self._finish is None or self._finish.device != device:
            self._finish = Finisher(device, settings.patch_size, settings.voxel_size)
        return self._finish(batch)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Loss of one batch."""
        raw, target = batch
        loss = self.loss(self(raw), _with_nan(target))
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Add one batch to the loss and to the counts of the validation Dice."""
        raw, target = batch
        logits = self(raw)
        loss = self.loss(logits, _with_nan(target))
        self.log("val_loss", loss, batch_size=len(raw), sync_dist=True)
        known = target != UNKNOWN
        predicted = (logits > 0) & known
        true = (target == 1) & known
        parts = (predicted & true, predicted, true)
        self.counts += torch.stack([part.sum(dim=(0, 2, 3, 4)) for part in parts])

    def on_validation_epoch_end(self) -> None:
        """Log Dice per channel and, as what the best checkpoint is chosen by, their mean."""
        gathered = cast(Tensor, self.all_gather(self.counts))
        both, predicted, true = gathered.reshape(-1, *self.counts.shape).sum(0)
        occurs = true > 0
        dice = 2 * both / (predicted + true).clamp(min=1)
        for channel, value, there in zip(self.channels, dice, occurs, strict=True):
            if there:
                self.log(f"val_dice/{channel}", value)
        mean = dice[occurs].mean() if occurs.any() else torch.zeros((), device=self.device)
        self.log("val_dice", mean, prog_bar=True)
        self.counts.zero_()

    def configure_optimizers(self) -> Any:
        """Optimiser and learning-rate schedule, by step."""
        settings = self.training_settings
        optimizer = _optimizer(self.network, settings)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            return _schedule(step, total, settings)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class EpochTable(pl.Callback):
    """Writes a row of metrics per epoch to a CSV; a resumed training adds to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begin = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock."""
        self.begin = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Add the epoch's row; rows of epochs that are done again are replaced."""
        if not trainer.is_global_zero:
            return
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= {key: float(value) for key, value in trainer.callback_metrics.items()}
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = round(time.monotonic() - self.begin, 3)
        table = pd.DataFrame([row])
        if self.path.is_file():
            earlier = pd.read_csv(self.path)
            table = pd.concat([earlier[earlier["epoch"] < row["epoch"]], table])
        beside = self.path.with_suffix(".partial")
        table.to_csv(beside, index=False)
        os.replace(beside, self.path)


def normalise(raw: Tensor) -> Tensor:
    """Raw in 0..1 to about -1..1, as every network here is fed."""
    return (raw - 0.5) * 4


def train(
    training: Training, datasplit: Path, state: Path, checkpoint: Path, threads: int = 1
) -> None:
    """Train to the end, or from where an earlier job of the same settings was stopped.

    Parameters
    ----------
    training : the settings.
    datasplit : crops to train on and to validate with.
    state : folder of what a running training keeps: `checkpoints/`, `tensorboard/`, `metrics.csv`.
    checkpoint : where the best checkpoint goes when the training is done.
    threads : for the CPU.

    Raises
    ------
    InputError
        The datasplit cannot be used, or more GPUs are asked for than there are.
    """
    torch.set_num_threads(threads)
    pl.seed_everything(training.seed, workers=True, verbose=False)
    settings = training_settings(training, TRAIN_KEYS)
    crops = open_crops(datasplit, training.classes, training.voxel_size)
    split = fingerprint_of({"datasplit": datasplit.read_text()})
    # With more epochs the same training goes on.
    same = {key: value for key, value in settings.items() if key != "epochs"}
    resumed = claim(state, same | {"datasplit": split})
    last = state / "checkpoints" / "last.ckpt"
    best = ModelCheckpoint(
        state / "checkpoints",
        filename="{epoch}-{val_dice:.4f}",
        monitor="val_dice",
        mode="max",
        save_top_k=training.save_top_k,
        save_last=True,
        auto_insert_metric_name=False,
    )
    trainer = _trainer(training, state, best)
    task = SegmentationTask(settings)
    train_batches, validation_batches = loaders(
        crops, training, trainer.global_rank, trainer.world_size
    )
    log.info(
        "training %s parameters on %d crops, validating on %d",
        f"{sum(p.numel() for p in task.parameters()):,}", len(crops["train"]),
        len(crops["validate"]),
    )  # fmt: skip
    go_on = str(last) if resumed and last.is_file() else None
    if go_on:
        log.info("going on from %s", go_on)
    trainer.fit(task, train_batches, validation_batches, ckpt_path=go_on, weights_only=True)
    if trainer.is_global_zero:
        export(Path(best.best_model_path), checkpoint)


def export(source: Path, target: Path) -> None:
    """Write the checkpoint without the optimiser's state, whole or not at all."""
    checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    for key in ("optimizer_states", "lr_schedulers", "callbacks", "loops"):
        checkpoint.pop(key, None)
    beside = target.with_name(target.name + ".partial")
    torch.save(checkpoint, beside)
    os.replace(beside, target)


def load_checkpoint(path: Path) -> SegmentationTask:
    """The trained network in a checkpoint, in evaluation mode on the CPU.

    Raises
    ------
    InputError
        The file is not a checkpoint of this pipeline, or holds code.
    """
    try:
        task = SegmentationTask.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError, KeyError, TypeError, EOFError, OSError, ValueError, UnpicklingError
    ) as error:  # fmt: skip
        why = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise InputError(
            f"{path} is not a checkpoint of this pipeline ({why}): give the model.ckpt that its "
            "training wrote; it holds tensors and plain settings only"
        ) from error
    return task.eval()


def _trainer(training: Training, state: Path, best: ModelCheckpoint) -> pl.Trainer:
    gpu = torch.cuda.is_available()
    if gpu and torch.cuda.device_count() < training.devices:
        raise InputError(
            f"devices: {training.devices} GPUs are asked for, but this job sees "
            f"{torch.cuda.device_count()}"
        )
    return pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=training.devices if gpu else 1,
        strategy="ddp" if gpu and training.devices > 1 else "auto",
        precision=training.precision if gpu else cpu_precision(training.precision),
        max_epochs=training.epochs,
        accumulate_grad_batches=training.accumulate_grad_batches,
        gradient_clip_val=training.gradient_clip or None,
        log_every_n_steps=training.log_every_steps,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        deterministic=not gpu,
        callbacks=[
            best,
            EarlyStopping("val_dice", mode="max", patience=training.early_stopping_patience),
            LearningRateMonitor("step"),
            EpochTable(state / "metrics.csv"),
            TQDMProgressBar(refresh_rate=training.log_every_steps),
        ],
        logger=TensorBoardLogger(state, name="", version="tensorboard"),
        default_root_dir=state,
    )


def cpu_precision(wanted: str) -> Literal["bf16-mixed", "32"]:
    """What `precision` means without a GPU: bfloat16 where the processor computes in it."""
    able = torch.cpu.get_capabilities()
    fast = able.get("avx512_bf16") or able.get("amx_bf16")
    return "bf16-mixed" if wanted != "32" and fast else "32"


def _weighted(loss: str | Mapping[LossName, float]) -> Mapping[str, float]:
    return {loss: 1.0} if isinstance(loss, str) else {str(key): loss[key] for key in loss}


def _optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    parameters: Sequence[Tensor] = list(network.parameters())
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, settings.learning_rate, momentum=0.99, nesterov=True)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    decay = settings.weight_decay if settings.optimizer == "adamw" else 0.0
    return kind(parameters, settings.learning_rate, weight_decay=decay)


def _schedule(step: int, total: int, settings: Training) -> float:
    """Learning rate at `step`, as a part of the highest."""
    schedule = settings.scheduler
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if schedule.name == "constant":
        return 1.0
    done = (step - schedule.warmup_steps) / max(1, total - schedule.warmup_steps)
    lowest = schedule.minimum / settings.learning_rate
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _with_nan(target: Tensor) -> Tensor:
    """Float targets, NaN where unknown, from the uint8 that travels."""
    return target.float().masked_fill(target == UNKNOWN, torch.nan)
