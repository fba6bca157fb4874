"""The share of each channel in the voxels that a network is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.channels import depends_on_ids
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.patches.batches import write_id_targets
from cellmap_pipeline.patches.patch import Patch
from cellmap_pipeline.patches.targets import (
    ID_DIGIT_SUFFIXES,
    UNKNOWN,
    object_ids,
    stored_channels,
    target_divisors,
)


def mean_targets(
    patches: Iterable[Patch],
    channels: Sequence[str],
    patch_size: Shape,
    voxel_size: Vector,
    descriptor_sigmas_nm: Mapping[str, float] = {},
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
    descriptor_sigmas_nm
        Sigma of the local shape descriptors of each class that has them, nm.

    Returns
    -------
    (c,) in 0..1: for a mask the share of its voxels, for distances and descriptors their mean. NaN
    for a channel that is unknown in all patches.
    """
    sums, known = np.zeros((2, len(channels)))
    for patch in patches:
        codes = _center(patch.codes, patch_size)
        patch_sums, patch_known = _count(
            codes, patch.table.numpy(), channels, voxel_size, descriptor_sigmas_nm
        )
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
    descriptor_sigmas_nm: Mapping[str, float],
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
    from_ids = [i for i, channel in enumerate(channels) if depends_on_ids(channel)]
    if from_ids:
        targets = torch.empty((len(from_ids), *codes.shape), dtype=torch.uint8)

        def ids_of(label: str) -> Tensor:
            digits = [stored.index(label + suffix) for suffix in ID_DIGIT_SUFFIXES]
            return object_ids(*(torch.from_numpy(table[:, digit][codes]) for digit in digits))

        names = [channels[i] for i in from_ids]
        write_id_targets(ids_of, names, voxel_size, descriptor_sigmas_nm, targets)
        for i, values in zip(from_ids, targets.numpy(), strict=True):
            counts = np.bincount(values.ravel(), minlength=UNKNOWN + 1)[:UNKNOWN]
            sums[i] = counts @ np.arange(UNKNOWN)
            known[i] = counts.sum()
    return sums, known
