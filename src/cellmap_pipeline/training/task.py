"""The Lightning module: a network with its loss, its optimizer and its validation Dice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from cellmap_pipeline.channels import is_descriptor
from cellmap_pipeline.config.augmentation import NORMALIZATION
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.build import build_model
from cellmap_pipeline.models.hierarchy import ClassLogits
from cellmap_pipeline.models.masked_loss import MaskedLoss
from cellmap_pipeline.patches.batches import BatchBuilder
from cellmap_pipeline.patches.patch import Patch
from cellmap_pipeline.patches.targets import UNKNOWN, target_divisors
from cellmap_pipeline.training.optimizers import build_optimizer, learning_rate_factor
from cellmap_pipeline.training.skipping import SkippingModule, stability_advice

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]


class SegmentationTask(SkippingModule):
    """A network with its loss and its validation Dice per channel.

    Parameters
    ----------
    settings
        A training's settings, JSON-serializable (`training_settings` with `TRAIN_KEYS`). They are
        saved in the checkpoint, so that it suffices for prediction.
    class_weights
        Weight of each channel in the loss; None: equal weights.

    Raises
    ------
    InputError
        The settings refer to a class table, or the network cannot be built.
    """

    def __init__(
        self, settings: dict[str, Any], class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.save_hyperparameters("settings")
        self.training_settings = Training.model_validate(settings)
        if self.training_settings.hierarchy is True:
            raise InputError(
                "`hierarchy: true` is resolved when a run is planned: outside of one, list the "
                "atoms (`data.class_table.find_atoms`)"
            )
        self.channels = self.training_settings.channels
        self.normalization = NORMALIZATION
        # By path of the raw volumes it trains on, and by level; only for their record.
        self.raw_statistics: dict[str, Any] = {}
        self._target_divisors = target_divisors(self.channels)
        # Names of submodules (`network`, `loss`) are part of all checkpoints: don't rename them.
        self.network = build_model(
            self.training_settings.model,
            in_channels=1,
            out_channels=len(self.training_settings.outputs),
            patch_size=self.training_settings.patch_size,
            voxel_size=self.training_settings.voxel_size,
        )
        self.class_logits = ClassLogits(self.channels, self.training_settings.atoms)
        self.loss = MaskedLoss(self.training_settings.loss, class_weights, self.class_logits)
        self._dice_counts = self._validation_loss = torch.zeros(0)
        self._build_batch: BatchBuilder | None = None
        # Sum and number of the epoch's finite losses. Not a buffer: EMA would average it, too.
        self.epoch_loss = torch.zeros(2, dtype=torch.float64)
        self._reset_validation()

    def forward(self, raw: Tensor) -> Tensor:
        """Compute the logits of all channels (n, c, z, y, x) of standardized raw (n, 1, z, y, x).

        That is raw in 0..1 for `normalize: range`; otherwise, who knows the volume standardizes it
        (`patches.normalization`).
        """
        return self.class_logits(self.outputs(raw))

    def outputs(self, raw: Tensor) -> Tensor:
        """Compute the network's outputs (n, o, z, y, x), named as the training's `outputs`."""
        return self.network(network_input(raw, self.normalization))

    def transfer_batch_to_device(
        self, batch: list[Patch], device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Build standardized raw (n, 1, z, y, x) and targets (n, c, z, y, x) on the device."""
        settings = self.training_settings
        if self._build_batch is None or self._build_batch.device != device:
            self._build_batch = BatchBuilder(
                device, settings.patch_size, settings.voxel_size, self.channels,
                settings.descriptor_sigmas_nm,
            )  # fmt: skip
        return self._build_batch(batch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by batch number, so that a resumed training repeats the same noise."""
        super().on_train_batch_start(batch, batch_idx)
        batch_number = self.trainer.fit_loop.total_batch_idx
        seeds = np.random.SeedSequence(
            [self.training_settings.seed, batch_number, self.trainer.global_rank]
        )
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Compute the loss of one batch."""
        raw, target = batch
        loss = self.batch_loss(raw, target)
        self.log("train_loss_step", loss, prog_bar=True, on_epoch=False)
        finite = self.note_loss(loss)
        self.epoch_loss = self.epoch_loss.to(loss.device, non_blocking=True)
        self.epoch_loss[0] += torch.where(finite, loss.detach(), 0.0)
        self.epoch_loss[1] += finite
        return loss

    def batch_loss(self, raw: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of standardized raw (n, 1, z, y, x), given targets (n, c, z, y, x)."""
        return self.loss(self.outputs(raw), self._float_targets(target))

    def pop_epoch_loss(self) -> Tensor:
        """Return the mean of the epoch's finite batch losses in all processes, and reset it."""
        total, batches = _sum_over_ranks(self, self.epoch_loss)
        self.epoch_loss.zero_()
        return (total / batches).float()

    def validation_step(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """Add one batch to the validation loss and to the counts of the validation Dice.

        Logits that are not a number predict nothing. If the loss is not finite, the validation
        loss leaves the batch out.

        Returns
        -------
        The tensors `raw`, `target` and `logits` of the batch.
        """
        raw, target = batch
        outputs = self.outputs(raw)
        if not isinstance(outputs, Tensor):
            outputs = outputs[0]
        float_targets = self._float_targets(target)
        loss = self.loss(outputs, float_targets)
        logits = self.class_logits(outputs)
        known = target != UNKNOWN
        predicted = (logits > 0) & known
        true = float_targets > 0.5
        counted = torch.stack([predicted & true, predicted, true])
        self._dice_counts = self._dice_counts.to(self.device) + counted.sum(dim=(1, 3, 4, 5))
        weight = known.flatten(1).any(1).sum()
        finite = loss.isfinite()
        weighted = torch.stack([torch.where(finite, loss, 0.0) * weight, weight * finite, weight])
        self._validation_loss = self._validation_loss.to(self.device) + weighted
        return {"raw": raw, "target": target, "logits": logits}

    def on_validation_epoch_end(self) -> None:
        """Log the Dice of each channel, and their mean, which selects the best checkpoint.

        Descriptors, which only help to learn the other channels, are left out.

        If no channel has a true voxel in any validation patch, minus the loss takes the place of
        the mean, since a Dice of 0 in each epoch would select the first one.

        Raises
        ------
        InputError
            The loss of no validation patch is finite, or nothing is known in them.
        """
        both, predicted, true = _sum_over_ranks(self, self._dice_counts)
        # A descriptor is no mask: half an offset is as true as any other.
        has_dice = torch.tensor([not is_descriptor(channel) for channel in self.channels])
        occurs = (true > 0) & has_dice.to(true.device)
        dice = 2 * both / (predicted + true).clamp(min=1)
        for channel, value, channel_occurs in zip(self.channels, dice, occurs, strict=True):
            if channel_occurs:
                self.log(f"val_dice/{channel}", value)
        total, finite, patches = _sum_over_ranks(self, self._validation_loss)
        if not patches:
            raise InputError(
                "no voxel of the validation patches is annotated with a class of the training: "
                "raise `validation_iterations`, or let other crops validate (`split`)"
            )
        loss = (total / finite).float()
        # Here, and not at the end of the epoch: Lightning compares and keeps checkpoints before.
        if not loss.isfinite():
            raise InputError(
                f"the validation loss of epoch {self.current_epoch} is not a finite number: "
                f"{stability_advice(self.training_settings)}"
            )
        if finite < patches:
            log.warning(
                "epoch %d: the loss of %d of %d validation patches is not finite (NaN or "
                "infinity): `val_loss` leaves them out", self.current_epoch,
                patches - finite, patches,
            )  # fmt: skip
        self.log("val_loss", loss)
        self.log("val_dice", dice[occurs].mean() if occurs.any() else -loss, prog_bar=True)
        if not occurs.any() and self.current_epoch == 0:
            log.warning(
                "no validation patch has a voxel of any class: the validation loss decides which "
                "epoch is best, and `val_dice` is minus that loss"
            )
        self._reset_validation()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the epoch's loss so far and the normalization of raw."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["epoch_loss"] = self.epoch_loss.cpu()
        # The key is spelled as in existing checkpoints.
        checkpoint["normalisation"] = list(self.normalization)
        checkpoint["raw_statistics"] = self.raw_statistics

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the epoch's loss so far and the normalization of raw."""
        super().on_load_checkpoint(checkpoint)
        self.epoch_loss = checkpoint.get("epoch_loss", self.epoch_loss)
        center, scale = checkpoint.get("normalisation", self.normalization)
        self.normalization = float(center), float(scale)
        self.raw_statistics = checkpoint.get("raw_statistics", {})

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its learning-rate schedule, which advances by step."""
        settings = self.training_settings
        optimizer = build_optimizer(self.network, settings)
        # Lightning's own estimate would start the loader before its state is restored.
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, settings.steps, settings)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _float_targets(self, target: Tensor) -> Tensor:
        """Convert stored uint8 targets to float in 0..1, NaN where unknown."""
        scaled = target.float().masked_fill_(target == UNKNOWN, torch.nan)
        if any(divisor != 1 for divisor in self._target_divisors):
            divisors = torch.tensor(self._target_divisors, device=scaled.device)
            scaled /= divisors.view(-1, 1, 1, 1)
        return scaled

    def _reset_validation(self) -> None:
        # Voxels per channel: predicted and true, predicted, true.
        self._dice_counts = torch.zeros(3, len(self.channels), dtype=torch.int64)
        # Sum of the finite losses, each weighted by its number of patches with known voxels; these
        # numbers; those of all batches.
        self._validation_loss = torch.zeros(3, dtype=torch.float64)


def network_input(standardized: Tensor, normalization: tuple[float, float]) -> Tensor:
    """Convert standardized raw to network input, by its center and scale."""
    center, scale = normalization
    return (standardized - center) * scale


def to_probabilities(logits: Tensor) -> Tensor:
    """Convert logits to probabilities, float32, as they are predicted and exported."""
    return torch.sigmoid(logits.float())


def _sum_over_ranks(task: SegmentationTask, values: Tensor) -> Tensor:
    """Sum a tensor over the processes that train together."""
    gathered = cast(Tensor, task.all_gather(values.to(task.device)))
    return gathered.reshape(-1, *values.shape).sum(0)
