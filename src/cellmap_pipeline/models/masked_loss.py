"""A weighted sum of losses over the known voxels, with deep supervision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import interpolate

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.losses import check_loss
from cellmap_pipeline.models.registry import LOSSES

Logits = torch.Tensor | Sequence[torch.Tensor]


class MaskedLoss(torch.nn.Module):
    """A weighted sum of losses over the known voxels.

    Parameters
    ----------
    loss
        A training's `loss`, as described in `losses.check_loss`.
    class_weights
        Weight of each channel in all means; only their ratios matter. None means equal weights.

    Raises
    ------
    InputError
        A loss or an option does not exist, or a weight is not positive.
    """

    class_weights: torch.Tensor | None

    def __init__(
        self, loss: str | Mapping[str, Any], class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        check_loss(loss)
        terms: Mapping[str, Any] = {loss: 1.0} if isinstance(loss, str) else loss
        self.terms = {
            name: dict(settings) if isinstance(settings, Mapping) else {"weight": settings}
            for name, settings in terms.items()
        }
        per_channel = None
        if class_weights is not None:
            per_channel = torch.as_tensor(class_weights, dtype=torch.float32)
            if not (per_channel > 0).all():
                raise InputError(f"loss: class weights must be positive, not {class_weights}")
            per_channel = per_channel / per_channel.mean()
        # Not in the state dict: checkpoints contain only the network's weights.
        self.register_buffer("class_weights", per_channel, persistent=False)

    def forward(self, logits: Logits, target: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        logits
            (n, c, z, y, x), any float type. With deep supervision, the full resolution first, then
            coarser ones; they have the relative weights 1, 1/2, 1/4, ... and are compared with the
            target's nearest voxels.
        target
            Float (n, c, z, y, x), 0 to 1, NaN where unknown.

        Returns
        -------
        Float32 scalar; 0 with zero gradient if nothing is known.
        """
        if isinstance(logits, torch.Tensor):
            return self._one_scale(logits, target)
        shares = [0.5**level for level in range(len(logits))]
        targets = [target] + [
            interpolate(target, scale.shape[2:], mode="nearest-exact") for scale in logits[1:]
        ]
        losses = [self._one_scale(a, b) for a, b in zip(logits, targets, strict=True)]
        scaled = [share / sum(shares) * loss for share, loss in zip(shares, losses, strict=True)]
        return torch.stack(scaled).sum()

    def _one_scale(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if logits.shape != target.shape:
            raise ValueError(f"logits {logits.shape} and target {target.shape} differ in shape")
        known = ~target.isnan()
        logits = torch.where(known, logits.float(), 0.0)
        target = torch.where(known, target.float(), 0.0)
        mask = known.float()
        weights = self.class_weights
        if weights is None:
            weights = torch.ones(logits.shape[1], device=logits.device)
        terms = []
        for name, settings in self.terms.items():
            options = {key: value for key, value in settings.items() if key != "weight"}
            value = LOSSES[name].compute(logits, target, mask, weights, **options)
            terms.append(settings.get("weight", 1.0) * value)
        return torch.stack(terms).sum()
