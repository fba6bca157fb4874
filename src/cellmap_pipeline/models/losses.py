"""Losses that leave out what is unknown.

Masked exactly: an unknown voxel's logit and target are both set to zero and its share of every
sum is left out, so that it changes neither the loss nor a gradient. MONAI's own `ignore_index`
and `MaskedLoss` mask all channels of a voxel together, so its losses are called here for the
sums alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from monai.losses.tversky import TverskyLoss
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from cellmap_pipeline.errors import InputError

Logits = torch.Tensor | Sequence[torch.Tensor]
# Logits and targets, zero where unknown; known as 0 and 1; a weight per channel.
Term = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# One voxel: nothing to a real object, and an absent class that is not predicted costs nothing,
# while the gradient on a logit stays below 1/4 however little is predicted.
SMOOTH = 1.0

_dice = DiceLoss(reduction="none", batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
# False negatives weigh more, as Salehi et al. 2017 (arXiv 1706.05721) found best.
_tversky = TverskyLoss(
    reduction="none", batch=True, alpha=0.3, beta=0.7, smooth_nr=SMOOTH, smooth_dr=SMOOTH
)
# Lin et al. 2017 (arXiv 1708.02002), without its class balance, which `class_weights` gives.
_focal = FocalLoss(reduction="none", gamma=2.0)


class MaskedLoss(torch.nn.Module):
    """A weighted sum of losses over the known voxels.

    `bce` and `focal` are means over all known voxels, `dice` and `tversky` means over the
    channels that have known voxels, each channel summed over the batch and space.

    Parameters
    ----------
    weights : mapping
        Name to its weight in the sum.
    class_weights : sequence of float, optional
        A weight per channel; only their ratios matter. All means are weighted means.

    Raises
    ------
    InputError
        For an unknown loss, or weights that are not all positive.
    """

    class_weights: torch.Tensor | None

    def __init__(
        self, weights: Mapping[str, float], class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        unknown = [name for name in weights if name not in LOSSES]
        if unknown or not weights:
            raise InputError(
                f"loss: there is no {', '.join(map(repr, unknown)) or 'loss in an empty mapping'}; "
                f"choose from {', '.join(LOSSES)}"
            )
        if not all(weight > 0 for weight in weights.values()):
            raise InputError(f"loss: weights must be positive, not {dict(weights)}")
        self.weights = dict(weights)
        per_channel = None
        if class_weights is not None:
            per_channel = torch.as_tensor(class_weights, dtype=torch.float32)
            if not (per_channel > 0).all():
                raise InputError(f"loss: class weights must be positive, not {class_weights}")
            per_channel = per_channel / per_channel.mean()
        # Not in the state dict: a checkpoint's weights are the network's alone.
        self.register_buffer("class_weights", per_channel, persistent=False)

    def forward(self, logits: Logits, target: torch.Tensor) -> torch.Tensor:
        """The loss of a batch.

        Parameters
        ----------
        logits : torch.Tensor or sequence of them
            (n, c, z, y, x), any float type. With deep supervision the full resolution first, then
            coarser ones, which weigh 1, 1/2, 1/4, ... of a sum of 1 and are held against the
            target's nearest voxels.
        target : torch.Tensor
            Float (n, c, z, y, x), 0 to 1, NaN where unknown.

        Returns
        -------
        torch.Tensor
            Float32 scalar; 0 with zero gradient where nothing is known.
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
        terms = [
            w * LOSSES[name](logits, target, mask, weights) for name, w in self.weights.items()
        ]
        return torch.stack(terms).sum()


def build_loss(
    loss: str | Mapping[Any, float], class_weights: Sequence[float] | None = None
) -> MaskedLoss:
    """The loss that a training's `loss` names, or the weighted sum that it lists.

    Raises
    ------
    InputError
        For an unknown loss, or weights that are not all positive.
    """
    return MaskedLoss({loss: 1.0} if isinstance(loss, str) else loss, class_weights)


def _voxel_mean(losses: torch.Tensor, known: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of per-voxel losses over the known voxels."""
    shares = known * weights.view(1, -1, 1, 1, 1)
    return (losses * shares).sum() / _nonzero(shares.sum())


def _channel_mean(losses: torch.Tensor, known: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of per-channel losses over the channels with known voxels."""
    shares = known.amax((0, 2, 3, 4)) * weights
    return (losses.flatten() * shares).sum() / _nonzero(shares.sum())


def _nonzero(total: torch.Tensor) -> torch.Tensor:
    return torch.where(total > 0, total, 1.0)


def bce(
    logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy."""
    losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _voxel_mean(losses, known, weights)


def focal(
    logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Focal loss."""
    return _voxel_mean(_focal(logits, target), known, weights)


def dice(
    logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Soft Dice loss."""
    return _channel_mean(_dice(logits.sigmoid() * known, target), known, weights)


def tversky(
    logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Tversky loss."""
    return _channel_mean(_tversky(logits.sigmoid() * known, target), known, weights)


def dice_bce(
    logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Soft Dice loss plus binary cross-entropy."""
    return dice(logits, target, known, weights) + bce(logits, target, known, weights)


LOSSES: dict[str, Term] = {
    "bce": bce,
    "dice": dice,
    "dice_bce": dice_bce,
    "focal": focal,
    "tversky": tversky,
}
