"""The share of each channel in the voxels that a network is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.channels import class_of
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.patches.patch import Patch
from cellmap_pipeline.patches.targets import (
    ID_DIGIT_SUFFIXES,
    UNKNOWN,
    affinity_offset,
    object_ids,
    stored_channels,
    target_divisors,
    write_affinity,
)


def mean_targets(
    patches: Iterable[Patch], channels: Sequence[str], patch_size: Shape, voxel_size: Vector
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
    voxel_size
        Voxel size of the training, nm.

    Returns
    -------
    (c,) in 0..1: for a mask the share of its voxels, for a distance its mean. NaN for a channel
    that is unknown in all patches.
    """
    sums, known = np.zeros((2, len(channels)))
    for patch in patches:
        codes = _center(patch.codes, patch_size)
        patch_sums, patch_known = _count(codes, patch.table.numpy(), channels, voxel_size)
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
    codes: NDArray[np.unsignedinteger],
    table: NDArray[np.uint8],
    channels: Sequence[str],
    voxel_size: Vector,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum the known targets of each channel, and count them."""
    stored = stored_channels(channels)
    voxels = np.bincount(codes.ravel(), minlength=len(table))[: len(table)]
    is_known = table != UNKNOWN
    stored_sums = voxels @ np.where(is_known, table, 0)
    stored_known = voxels @ is_known
    sums, known = np.zeros((2, len(channels)))
    ids_of: dict[str, Tensor] = {}
    values = torch.empty(codes.shape, dtype=torch.uint8)
    for i, channel in enumerate(channels):
        offset = affinity_offset(channel, voxel_size)
        if offset is None:
            sums[i] = stored_sums[stored.index(channel)]
            known[i] = stored_known[stored.index(channel)]
            continue
        label = class_of(channel)
        if label not in ids_of:
            digits = [stored.index(label + suffix) for suffix in ID_DIGIT_SUFFIXES]
            ids_of[label] = object_ids(
                *(torch.from_numpy(table[:, digit][codes]) for digit in digits)
            )
        write_affinity(ids_of[label], offset, values)
        sums[i] = int((values == 1).sum())
        known[i] = int((values != UNKNOWN).sum())
    return sums, known
