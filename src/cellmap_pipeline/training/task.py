"""What is trained: a network with its loss, its optimiser and its validation Dice."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.models.build import build_model
from cellmap_pipeline.models.losses import build_loss
from cellmap_pipeline.patches.batches import Finisher
from cellmap_pipeline.patches.patch import Patch
from cellmap_pipeline.patches.targets import UNKNOWN, scales
from cellmap_pipeline.training.optimizers import build_optimizer, rate_at

Batch = tuple[Tensor, Tensor]
# What is taken from raw in 0..1, and what it is multiplied by then: about -1..1 for the network.
NORMALISATION = (0.5, 4.0)


class SegmentationTask(pl.LightningModule):
    """A network with its loss and its validation Dice per channel.

    Parameters
    ----------
    settings
        A training's settings in plain builtins (`training_settings` with `TRAIN_KEYS`). They travel
        in the checkpoint, which is therefore enough to predict with.
    class_weights
        Of the channels in the loss; None: all alike.
    """

    def __init__(
        self, settings: dict[str, Any], class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.save_hyperparameters("settings")
        self.training_settings = Training.model_validate(settings)
        self.channels = self.training_settings.channels
        self.normalisation = NORMALISATION
        self._scales = torch.tensor(scales(self.channels)).view(-1, 1, 1, 1)
        self.network = build_model(
            self.training_settings.model,
            in_channels=1,
            out_channels=len(self.channels),
            patch_size=self.training_settings.patch_size,
        )
        self.loss = build_loss(self.training_settings.loss, class_weights)
        self._counts = self._losses = torch.zeros(0)
        self._finish: Finisher | None = None
        # Sum of the losses of an epoch's batches, and their number. Not buffers: an average of
        # the weights (EMA) takes the buffers along.
        self.epoch_loss = torch.zeros(2, dtype=torch.float64)
        self._forget_validation()

    def forward(self, raw: Tensor) -> Tensor:
        """Logits (n, c, z, y, x) of raw (n, 1, z, y, x) in 0..1."""
        # The layout in which convolutions are fastest, on the CPU and on GPUs.
        centre, scale = self.normalisation
        normalised = (raw - centre) * scale
        return self.network(normalised.contiguous(memory_format=torch.channels_last_3d))

    def transfer_batch_to_device(
        self, batch: list[Patch], device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Raw (n, 1, z, y, x) and targets (n, c, z, y, x), changed at random on the device."""
        settings = self.training_settings
        if self._finish is None or self._finish.device != device:
            self._finish = Finisher(device, settings.patch_size, settings.voxel_size, self.channels)
        return self._finish(batch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make chance (dropout) hang on the batch's number, not on what was drawn before."""
        number = self.trainer.fit_loop.total_batch_idx
        seeds = np.random.SeedSequence(
            [self.training_settings.seed, number, self.trainer.global_rank]
        )
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of one batch."""
        raw, target = batch
        loss = self.loss(self(raw), self._wanted(target))
        self.log("train_loss_step", loss, prog_bar=True, on_epoch=False)
        self.epoch_loss = self.epoch_loss.to(loss.device, non_blocking=True)
        self.epoch_loss[0] += loss.detach()
        self.epoch_loss[1] += 1
        return loss

    def take_epoch_loss(self) -> Tensor:
        """Mean loss of the epoch's batches, in all processes; the next epoch begins at zero."""
        total, batches = _sum_over_ranks(self, self.epoch_loss)
        self.epoch_loss.zero_()
        return (total / batches).float()

    def validation_step(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """Add one batch to the loss and to the counts of the validation Dice.

        Returns
        -------
        `raw`, `target` and `logits` of the batch.
        """
        raw, target = batch
        logits = self(raw)
        if not isinstance(logits, Tensor):
            logits = logits[0]
        wanted = self._wanted(target)
        loss = self.loss(logits, wanted)
        known = target != UNKNOWN
        predicted = (logits > 0) & known
        true = wanted > 0.5
        parts = torch.stack([predicted & true, predicted, true])
        self._counts = self._counts.to(self.device) + parts.sum(dim=(1, 3, 4, 5))
        weight = known.flatten(1).any(1).sum()
        self._losses = self._losses.to(self.device) + torch.stack([loss * weight, weight])
        return {"raw": raw, "target": target, "logits": logits}

    def on_validation_epoch_end(self) -> None:
        """Log Dice per channel and, as what the best checkpoint is chosen by, their mean."""
        both, predicted, true = _sum_over_ranks(self, self._counts)
        occurs = true > 0
        dice = 2 * both / (predicted + true).clamp(min=1)
        for channel, value, there in zip(self.channels, dice, occurs, strict=True):
            if there:
                self.log(f"val_dice/{channel}", value)
        mean = dice[occurs].mean() if occurs.any() else torch.zeros((), device=self.device)
        self.log("val_dice", mean, prog_bar=True)
        total, patches = _sum_over_ranks(self, self._losses)
        self.log("val_loss", (total / patches).float())
        self._forget_validation()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's losses so far, and how raw is normalised."""
        checkpoint["epoch_loss"] = self.epoch_loss.cpu()
        checkpoint["normalisation"] = list(self.normalisation)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the epoch's losses so far, and with the checkpoint's normalisation."""
        self.epoch_loss = checkpoint.get("epoch_loss", self.epoch_loss)
        centre, scale = checkpoint.get("normalisation", self.normalisation)
        self.normalisation = float(centre), float(scale)

    def configure_optimizers(self) -> Any:
        """Optimiser and learning-rate schedule, by step."""
        settings = self.training_settings
        optimizer = build_optimizer(self.network, settings)
        # Not Lightning's estimate: it opens the loader before a checkpoint says where to begin.
        total = settings.epochs * ceil(
            settings.iterations_per_epoch / settings.accumulate_grad_batches
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_at(step, total, settings)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _wanted(self, target: Tensor) -> Tensor:
        """Float targets in 0..1, NaN where unknown, from the uint8 that travels."""
        wanted = target.float().masked_fill_(target == UNKNOWN, torch.nan)
        if (self._scales > 1).any():
            wanted /= self._scales.to(wanted.device)
        return wanted

    def _forget_validation(self) -> None:
        # Voxels per channel: predicted and true, predicted, true.
        self._counts = torch.zeros(3, len(self.channels), dtype=torch.int64)
        self._losses = torch.zeros(2, dtype=torch.float64)


def _sum_over_ranks(task: SegmentationTask, values: Tensor) -> Tensor:
    """Sum of a tensor over the processes that train together."""
    gathered = cast(Tensor, task.all_gather(values.to(task.device)))
    return gathered.reshape(-1, *values.shape).sum(0)
