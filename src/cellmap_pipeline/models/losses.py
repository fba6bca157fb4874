"""The losses by name, one function each.

To add one, write its function here: its keyword-only arguments are its options in a training's
`loss`, with their annotations as allowed values and their defaults. torch and MONAI are imported
inside the functions, so that a configuration can be checked without them.

All losses are masked exactly: an unknown voxel's logit and target are both set to zero and its
share of every sum is left out, so that it changes neither the loss nor a gradient. MONAI's own
`ignore_index` and `MaskedLoss` mask all channels of a voxel together, so its losses only compute
the sums here.
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


@loss
def bce(logits: Tensor, target: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy, a mean over all known voxels."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _voxel_mean(losses, known, weights)


@loss
def dice(logits: Tensor, target: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Soft Dice loss, a mean over channels, each summed over the batch and space."""
    return _channel_mean(_dice()(logits.sigmoid() * known, target), known, weights)


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
    losses = _tversky(alpha, beta)(logits.sigmoid() * known, target)
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
    shares = known.amax((0, 2, 3, 4)) * weights
    return (losses.flatten() * shares).sum() / _nonzero(shares.sum())


def _nonzero(total: Tensor) -> Tensor:
    import torch

    return torch.where(total > 0, total, 1.0)


@cache
def _dice() -> Any:
    from monai.losses.dice import DiceLoss

    return DiceLoss(
        reduction="none", batch=True, smooth_nr=SMOOTHING_VOXELS, smooth_dr=SMOOTHING_VOXELS
    )


@cache
def _focal(gamma: float) -> Any:
    from monai.losses.focal_loss import FocalLoss

    return FocalLoss(reduction="none", gamma=gamma)


@cache
def _tversky(alpha: float, beta: float) -> Any:
    from monai.losses.tversky import TverskyLoss

    return TverskyLoss(
        reduction="none",
        batch=True,
        alpha=alpha,
        beta=beta,
        smooth_nr=SMOOTHING_VOXELS,
        smooth_dr=SMOOTHING_VOXELS,
    )
