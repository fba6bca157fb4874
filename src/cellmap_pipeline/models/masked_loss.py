"""A weighted sum of losses over the known voxels, with deep supervision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import interpolate

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.hierarchy import ClassLogits
from cellmap_pipeline.models.losses import bce, check_loss, uses_atoms
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
        Losses of atoms do not use them.
    class_logits
        Conversion of the network's outputs to logits of channels. None: outputs are channels.

    Raises
    ------
    InputError
        A loss or an option does not exist, a weight is not positive, or a loss of atoms has none.
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        loss: str | Mapping[str, Any],
        class_weights: Sequence[float] | None = None,
        class_logits: ClassLogits | None = None,
    ) -> None:
        super().__init__()
        check_loss(loss)
        if uses_atoms(loss) and (class_logits is None or not class_logits.n_atoms):
            raise InputError(f"loss: {loss} is a loss of atoms: set `hierarchy`")
        self.class_logits = class_logits
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

    def forward(self, outputs: Logits, target: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        outputs
            Outputs of the network, (n, o, z, y, x), any float type. With deep supervision, the
            full resolution first, then coarser ones; they have the relative weights 1, 1/2, 1/4,
            ... and are compared with the target's nearest voxels.
        target
            Float (n, c, z, y, x), 0 to 1, NaN where unknown.

        Returns
        -------
        Float32 scalar; 0 with zero gradient if nothing is known.
        """
        if isinstance(outputs, torch.Tensor):
            return self._one_scale(outputs, target)
        shares = [0.5**level for level in range(len(outputs))]
        targets = [target] + [
            interpolate(target, scale.shape[2:], mode="nearest-exact") for scale in outputs[1:]
        ]
        losses = [self._one_scale(a, b) for a, b in zip(outputs, targets, strict=True)]
        scaled = [share / sum(shares) * loss for share, loss in zip(shares, losses, strict=True)]
        return torch.stack(scaled).sum()

    def _one_scale(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = self.class_logits(outputs) if self.class_logits else outputs
        if logits.shape != target.shape:
            raise ValueError(f"logits {logits.shape} and target {target.shape} differ in shape")
        known = ~target.isnan()
        allowed = self._allowed_atoms(target)
        logits = torch.where(known, logits.float(), 0.0)
        target = torch.where(known, target.float(), 0.0)
        mask = known.float()
        weights = self.class_weights
        if weights is None:
            weights = torch.ones(logits.shape[1], device=logits.device)
        terms = []
        for name, settings in self.terms.items():
            options = {key: value for key, value in settings.items() if key != "weight"}
            if allowed is None or not LOSSES[name].of_atoms:
                value = LOSSES[name].compute(logits, target, mask, weights, **options)
            else:
                value = self._loss_of_atoms(name, outputs, allowed, mask, options)
                value = value + self._independent_bce(logits, target, mask, weights)
            terms.append(settings.get("weight", 1.0) * value)
        return torch.stack(terms).sum()

    def _allowed_atoms(self, target: torch.Tensor) -> torch.Tensor | None:
        """Find the atoms that each voxel may belong to, if a loss needs them."""
        needed = any(LOSSES[name].of_atoms for name in self.terms)
        return self.class_logits.allowed_atoms(target) if self.class_logits and needed else None

    def _loss_of_atoms(
        self,
        name: str,
        outputs: torch.Tensor,
        allowed: torch.Tensor,
        mask: torch.Tensor,
        options: Mapping[str, Any],
    ) -> torch.Tensor:
        assert self.class_logits
        atoms, _ = self.class_logits.split(outputs)
        known = mask[:, self.class_logits.related].amax(1, keepdim=True)
        return LOSSES[name].compute(atoms, allowed, known, **options)

    def _independent_bce(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        mask: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the cross-entropy of the channels without atoms; 0 if there are none."""
        assert self.class_logits
        chosen = self.class_logits.independent
        batch = (logits[:, chosen], target[:, chosen], mask[:, chosen], weights[chosen])
        return bce(*batch) if chosen else logits.new_zeros(())
