"""Optimizer steps whose loss or gradient is not finite are skipped.

One such number would spread over all weights: clipping by the norm of the gradients turns an
infinite one into NaN in all of them, and averages over processes pass it on. With `16-mixed`,
Lightning's gradient scaler leaves such a step out as well, but not the schedule of the learning
rate and the moving average of the weights; and a few overflows are usual while it searches for the
scale, so they are counted apart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError

log = logging.getLogger(__name__)

# The gradient scaler halves its first scale, 2¹⁶, at each overflow: this many are never usual.
MAX_SKIPPED_STEPS_IN_A_ROW = 50
RAW_ADVICE = "; if that does not help, see whether raw holds such values"


@dataclass
class SkippedSteps:
    """Numbers of skipped optimizer steps.

    Attributes
    ----------
    faults
        Steps of the epoch with a loss or a gradient that was not finite.
    overflows
        Steps of the epoch that the gradient scaler of `16-mixed` has to skip.
    taken
        Steps of the epoch that were not skipped.
    in_a_row
        Steps that were skipped since the last one that was not, of both kinds.
    """

    faults: int = 0
    overflows: int = 0
    taken: int = 0
    in_a_row: int = 0


class SkippingModule(pl.LightningModule):
    """A module that skips optimizer steps whose loss or gradient is not finite.

    A skipped step changes no weight, no buffer, no state of the optimizer and no learning rate. All
    processes that train together skip it.

    Attributes
    ----------
    training_settings
        Settings of the training, which messages refer to.
    step_is_skipped
        Whether the latest optimizer step was skipped.
    """

    training_settings: Training

    def __init__(self) -> None:
        super().__init__()
        self.step_is_skipped = False
        self._skipped = SkippedSteps()
        self._losses_are_finite = torch.tensor(True)
        self._buffers_before: list[Tensor] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keep the buffers (averages of normalizations) of before a step's first batch."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._losses_are_finite = torch.tensor(True, device=self.device)
            self._buffers_before = [buffer.clone() for buffer in self.buffers()]

    def note_loss(self, loss: Tensor) -> Tensor:
        """Return whether the loss of a batch is finite; if not, its step is skipped."""
        finite = loss.detach().isfinite()
        self._losses_are_finite = self._losses_are_finite & finite
        return finite

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients by their norm, or remove them, so that the optimizer does nothing.

        Raises
        ------
        InputError
            Too many steps in a row are skipped, or a weight is not finite.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        finite = bool(self._losses_are_finite & norm.isfinite().to(self.device))
        self.step_is_skipped = any_rank(self.trainer, not finite)
        if self.step_is_skipped:
            optimizer.zero_grad(set_to_none=True)
            for buffer, before in zip(self.buffers(), self._buffers_before, strict=True):
                buffer.copy_(before)
            self._count_skipped_step()
        else:
            self._skipped.in_a_row = 0
            self._skipped.taken += 1
            if gradient_clip_val:
                clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Advance the learning rate, unless the step was skipped."""
        if not self.step_is_skipped:
            scheduler.step()

    def pop_skipped_steps(self) -> dict[str, float]:
        """Return the numbers of steps of the epoch that were skipped, by metric, and reset them.

        Raises
        ------
        InputError
            No step of the epoch had a finite loss and gradient.
        """
        skipped = self._skipped
        if skipped.faults and not skipped.taken:
            raise InputError(
                f"the loss or its gradient was not finite (NaN or infinity) in all steps of epoch "
                f"{self.current_epoch}: {stability_advice(self.training_settings)}{RAW_ADVICE}"
            )
        numbers = {"skipped_steps": float(skipped.faults)}
        if self._scaler() is not None:
            numbers["overflow_steps"] = float(skipped.overflows)
        if skipped.faults:
            log.warning(
                "epoch %d: %d optimizer steps were skipped, since a loss or a gradient was not "
                "finite (NaN or infinity)", self.current_epoch, skipped.faults,
            )  # fmt: skip
        self._skipped = SkippedSteps(in_a_row=skipped.in_a_row)
        return numbers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the numbers of skipped steps.

        Raises
        ------
        InputError
            A weight is not finite: such a checkpoint would replace a good one.
        """
        for key in ("state_dict", "current_model_state"):  # with a moving average, both
            self._check_weights(checkpoint.get(key, {}))
        checkpoint["skipped_steps"] = asdict(self._skipped)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the numbers of skipped steps."""
        self._skipped = SkippedSteps(**checkpoint.get("skipped_steps", {}))

    def _count_skipped_step(self) -> None:
        skipped = self._skipped
        loss_fails = any_rank(self.trainer, not bool(self._losses_are_finite))
        skipped.in_a_row += 1
        if self._scaler() is not None and not loss_fails:
            skipped.overflows += 1
        else:
            skipped.faults += 1
            if skipped.faults == 1:
                log.warning(
                    "step %d is skipped: its %s is not finite (NaN or infinity); the end of the "
                    "epoch tells how many were", self.trainer.global_step,
                    "loss" if loss_fails else "gradient",
                )  # fmt: skip
        # Weights that are not finite give no finite loss again.
        self._check_weights(self.state_dict())
        if skipped.in_a_row >= MAX_SKIPPED_STEPS_IN_A_ROW:
            raise InputError(
                f"the loss or its gradient was not finite (NaN or infinity) in {skipped.in_a_row} "
                f"steps in a row, up to step {self.trainer.global_step}: "
                f"{stability_advice(self.training_settings)}{RAW_ADVICE}"
            )

    def _check_weights(self, weights: Mapping[str, Tensor]) -> None:
        if name := first_nonfinite(weights):
            raise InputError(
                f"step {self.trainer.global_step}: weights are not finite (NaN or infinity), first "
                f"in {name}: {stability_advice(self.training_settings)}"
            )

    def _scaler(self) -> Any:
        return getattr(self.trainer.precision_plugin, "scaler", None)


class MovingAverage(EMAWeightAveraging):
    """Moving average of the weights, without skipped steps."""

    @property
    def state_key(self) -> str:
        """Key of its state in checkpoints, that of the class which older ones were written with."""
        return EMAWeightAveraging.__qualname__

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Update the average after an optimizer step that was not skipped."""
        if pl_module.step_is_skipped:
            # Else the next batch, which may not complete a step, would update it.
            self._latest_update_step = trainer.global_step
        super().on_train_batch_end(trainer, pl_module, *args)


def stability_advice(settings: Training) -> str:
    """Return advice for a training that diverges, with the values of its settings."""
    return (
        f"lower `learning_rate` ({settings.learning_rate:g}), raise `scheduler.warmup_steps` "
        f"({settings.scheduler.warmup_steps}), or set `precision: 32`"
    )


def first_nonfinite(weights: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with NaN or infinity, or None."""
    return next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None)


def any_rank(trainer: pl.Trainer, decision: bool) -> bool:
    """Return whether `decision` is true in any of the processes that train together."""
    if trainer.world_size == 1:
        return decision
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))
