"""The losses by name, one function each.

To add one, write its function here: its keyword-only arguments are its options in a training's
`loss`, with their annotations as allowed values and their defaults. torch and MONAI are imported
inside the functions, so that a configuration can be checked without them.

All losses are masked exactly: an unknown voxel's logit and target are both set to zero and its
share of every sum is left out, so that it changes neither the loss nor a gradient. MONAI's own
`ignore_index` and `MaskedLoss` mask all channels of a voxel together, so only its focal loss is
used, voxel by voxel.

Targets may be fractions between 0 and 1: distances and descriptors. In losses of sums over voxels,
min(p, t), max(p − t, 0) and max(t − p, 0) (Wang et al. 2023, arXiv 2303.16296) therefore replace
the products p·t, p·(1 − t) and (1 − p)·t. For targets of 0 and 1 both are equal; for fractions, the
products would make another prediction than the fraction the best one. So does the focal loss, with
which such targets are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from cellmap_pipeline.errors import InputError, did_you_mean
from cellmap_pipeline.models.registry import (
    LOSSES,
    Fraction,
    Positive,
    atom_loss,
    check_options,
    loss,
)

if TYPE_CHECKING:
    from torch import Tensor

# One voxel is negligible for a real object. An absent class that is not predicted has no loss, and
# the gradient of a logit stays below 1/4 however little is predicted.
SMOOTHING_VOXELS = 1.0
BATCH_AND_SPACE = (0, 2, 3, 4)  # axes


@loss
def bce(logits: Tensor, target: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy, a mean over all known voxels."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _voxel_mean(losses, known, weights)


@loss
def dice(logits: Tensor, target: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Soft Dice loss, a mean over channels, each summed over the batch and space."""
    both, only_predicted, only_true = _overlap(logits.sigmoid() * known, target)
    union = both + (only_predicted + only_true) / 2
    losses = 1 - (2 * both + SMOOTHING_VOXELS) / (2 * union + SMOOTHING_VOXELS)
    return _channel_mean(losses, known, weights)


@loss
def dice_bce(logits: Tensor, target: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Soft Dice loss plus binary cross-entropy."""
    return dice(logits, target, known, weights) + bce(logits, target, known, weights)


@loss
def focal(
    logits: Tensor, target: Tensor, known: Tensor, weights: Tensor, *, gamma: Positive = 2.0
) -> Tensor:
    """Focal loss (Lin et al. 2017, arXiv 1708.02002), a mean over all known voxels.

    It lacks the paper's class balance; use `class_weights` instead.
    """
    return _voxel_mean(_focal(gamma)(logits, target), known, weights)


@loss
def tversky(
    logits: Tensor,
    target: Tensor,
    known: Tensor,
    weights: Tensor,
    *,
    alpha: Fraction = 0.3,
    beta: Fraction = 0.7,
) -> Tensor:
    """Tversky loss (Salehi et al. 2017, arXiv 1706.05721), a mean over channels as for `dice`.

    `alpha` weighs false positives and `beta` false negatives; the paper found the defaults best.
    """
    both, only_predicted, only_true = _overlap(logits.sigmoid() * known, target)
    denominator = both + alpha * only_predicted + beta * only_true
    losses = 1 - (both + SMOOTHING_VOXELS) / (denominator + SMOOTHING_VOXELS)
    return _channel_mean(losses, known, weights)


@atom_loss
def partial_cross_entropy(atoms: Tensor, allowed: Tensor, known: Tensor) -> Tensor:
    """Minus the log-probability of all allowed atoms together, a mean over all known voxels.

    An atom is allowed where no known class of the voxel contradicts it, so that a voxel counts once
    however many classes annotate it (partial labels: Jin and Ghahramani 2002, NIPS 15). The
    channels that contain no atom have their binary cross-entropy (`MaskedLoss`).
    """
    import torch

    possible = atoms.masked_fill(~allowed, -torch.inf).logsumexp(1, keepdim=True)
    losses = atoms.logsumexp(1, keepdim=True) - possible
    return (losses * known).sum() / _nonzero(known.sum())


def uses_atoms(loss: str | Mapping[str, Any]) -> bool:
    """Whether a training's `loss`, which `check_loss` accepts, needs its `hierarchy`."""
    return any(LOSSES[name].of_atoms for name in ([loss] if isinstance(loss, str) else loss))


def learns_fractions(loss: str | Mapping[str, Any]) -> bool:
    """Whether the best prediction of a target between 0 and 1 is that target.

    That of the focal loss is 0 or 1, as its factor vanishes there.
    """
    return "focal" not in ([loss] if isinstance(loss, str) else loss)


def check_loss(value: Any) -> Any:
    """Check a training's `loss`.

    Parameters
    ----------
    value
        The name of a loss, or a mapping from names to weights, or from names to mappings with
        `weight` (default 1) and options of the loss.

    Returns
    -------
    The same value.

    Raises
    ------
    InputError
        A loss or an option does not exist, or a value is not allowed.
    """
    terms: Mapping[str, Any] = {value: 1.0} if isinstance(value, str) else value
    if not terms:
        raise InputError(f"loss: is empty: choose from {', '.join(LOSSES)}")
    for name, settings in terms.items():
        if name not in LOSSES:
            suggestion = did_you_mean(str(name), list(LOSSES))
            raise InputError(
                f"loss: there is no {name!r}{suggestion}: choose from {', '.join(LOSSES)}"
            )
        options = dict(settings) if isinstance(settings, Mapping) else {"weight": settings}
        weight = options.pop("weight", 1.0)
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (number and 0 < weight < float("inf")):
            raise InputError(
                f"loss: the weight of {name} must be a positive number, not {weight!r}"
            )
        check_options("loss", name, LOSSES[name].options, options)
    return value


def _voxel_mean(losses: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of per-voxel losses over the known voxels."""
    shares = known * weights.view(1, -1, 1, 1, 1)
    return (losses * shares).sum() / _nonzero(shares.sum())


def _channel_mean(losses: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of per-channel losses over the channels with known voxels."""
    shares = known.amax(BATCH_AND_SPACE) * weights
    return (losses.flatten() * shares).sum() / _nonzero(shares.sum())


def _overlap(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum what is both predicted and true, only predicted, and only true, per channel."""
    only_true = (target - predicted).relu().sum(BATCH_AND_SPACE)
    # min(p, t) is t − max(t − p, 0), so one pass over the voxels suffices.
    both = target.sum(BATCH_AND_SPACE) - only_true
    return both, predicted.sum(BATCH_AND_SPACE) - both, only_true


def _nonzero(total: Tensor) -> Tensor:
    import torch

    return torch.where(total > 0, total, 1.0)


@cache
def _focal(gamma: float) -> Any:
    from monai.losses.focal_loss import FocalLoss

    return FocalLoss(reduction="none", gamma=gamma)
