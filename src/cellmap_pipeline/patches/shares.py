"""The share of each channel in the voxels that a network is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.channels import AFFINITY_SUFFIXES, class_of
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.patches.patch import Patch
from cellmap_pipeline.patches.targets import (
    ID_DIGIT_SUFFIXES,
    UNKNOWN,
    compute_affinities,
    stored_channels,
    target_divisors,
)


def mean_targets(
    patches: Iterable[Patch], channels: Sequence[str], patch_size: Shape
) -> NDArray[np.float64]:
    """Compute the mean target of each channel, over the known voxels of patches.

    Parameters
    ----------
    patches
        Patches as they are read, before augmentation.
    channels
        Channels of the network.
    patch_size
        Voxels (z, y, x) of a patch; what is read around it to rotate or shrink it is left out.

    Returns
    -------
    (c,) in 0..1: for a mask the share of its voxels, for a distance its mean. NaN for a channel
    that is unknown in all patches.
    """
    sums, known = np.zeros((2, len(channels)))
    for patch in patches:
        codes = _center(patch.codes, patch_size)
        patch_sums, patch_known = _count(codes, patch.table.numpy(), channels)
        sums += patch_sums
        known += patch_known
    with np.errstate(invalid="ignore"):
        return sums / known / target_divisors(channels)


def _center(codes: Tensor, patch_size: Shape) -> NDArray[np.unsignedinteger]:
    """Return the codes of the central patch as unsigned integers; all, if fewer were read."""
    margins = [max(0, n - size) // 2 for n, size in zip(codes.shape, patch_size, strict=True)]
    box = tuple(slice(m, m + size) for m, size in zip(margins, patch_size, strict=True))
    unsigned = np.uint16 if codes.dtype == torch.int16 else np.uint8
    return codes.numpy()[box].view(unsigned)


def _count(
    codes: NDArray[np.unsignedinteger], table: NDArray[np.uint8], channels: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum the known targets of each channel, and count them."""
    stored = stored_channels(channels)
    voxels = np.bincount(codes.ravel(), minlength=len(table))[: len(table)]
    is_known = table != UNKNOWN
    stored_sums = voxels @ np.where(is_known, table, 0)
    stored_known = voxels @ is_known
    sums, known = np.zeros((2, len(channels)))
    for i, channel in enumerate(channels):
        if channel in stored:
            sums[i] = stored_sums[stored.index(channel)]
            known[i] = stored_known[stored.index(channel)]
        elif channel.endswith(AFFINITY_SUFFIXES[0]):
            digits = [stored.index(class_of(channel) + suffix) for suffix in ID_DIGIT_SUFFIXES]
            low, high = (torch.from_numpy(table[:, digit][codes]) for digit in digits)
            affinities = torch.empty((len(AFFINITY_SUFFIXES), *codes.shape), dtype=torch.uint8)
            compute_affinities(low, high, affinities)
            for axis, values in enumerate(affinities):
                sums[i + axis] = int((values == 1).sum())
                known[i + axis] = int((values != UNKNOWN).sum())
    return sums, known
