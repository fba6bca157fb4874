"""Batches of patches, made on the device that they are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.channels import AFFINITY_SUFFIXES, class_of
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.patches.augmentation import change_patch
from cellmap_pipeline.patches.patch import Patch
from cellmap_pipeline.patches.targets import ID_SUFFIXES, affinities, stored_channels

# A processor looks eight codes up as fast by comparing each voxel with each of them.
COMPARED = 8


class Finisher:
    """Makes batches of patches, on the device that they are trained on.

    On the CPU their memory is used again: a batch is good until the next one is made.
    """

    def __init__(
        self,
        device: torch.device,
        patch_size: Shape,
        voxel_size: Vector,
        channels: Sequence[str],
    ) -> None:
        self.device = device
        self.patch_size = patch_size
        self.voxel_size = voxel_size
        self.channels = list(channels)
        self.stored = stored_channels(channels)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, patches: Sequence[Patch]) -> tuple[Tensor, Tensor]:
        """Change the patches and decode their targets.

        Returns
        -------
        raw
            (n, 1, z, y, x) float32, 0..1.
        targets
            (n, c, z, y, x) uint8 as `targets.make_targets` gives them, 255 where unknown.
        """
        raws, targets = self._batch(len(patches))
        for patch, raw, target in zip(patches, raws, targets, strict=True):
            codes = change_patch(
                patch.raw.to(self.device, non_blocking=True),
                patch.codes.to(self.device, non_blocking=True),
                patch.change, self.patch_size, self.voxel_size, out=raw[0],
            )  # fmt: skip
            if self.stored == self.channels:
                decode(codes, patch.table, target)
            else:
                self._decode_with_affinities(codes, patch.table, target)
        return raws, targets

    def _decode_with_affinities(self, codes: Tensor, table: Tensor, target: Tensor) -> None:
        shape = (len(self.stored), *self.patch_size)
        stored = torch.empty(shape, dtype=torch.uint8, device=self.device)
        decode(codes, table, stored)
        place = {name: i for i, name in enumerate(self.stored)}
        for i, channel in enumerate(self.channels):
            if channel in place:
                target[i] = stored[place[channel]]
            elif channel.endswith(AFFINITY_SUFFIXES[0]):
                low, high = (stored[place[class_of(channel) + end]] for end in ID_SUFFIXES)
                affinities(low, high, target[i : i + len(AFFINITY_SUFFIXES)])

    def _batch(self, size: int) -> tuple[Tensor, Tensor]:
        made = self._kept.get(size)
        if made is None:
            raws = torch.empty((size, 1, *self.patch_size), device=self.device)
            shape = (size, len(self.channels), *self.patch_size)
            made = raws, torch.empty(shape, dtype=torch.uint8, device=self.device)
            if self.device.type == "cpu":
                self._kept[size] = made
        return made


def decode(codes: Tensor, table: Tensor, target: Tensor) -> None:
    """Write the targets of all channels, (c, z, y, x) uint8.

    Parameters
    ----------
    codes
        (z, y, x) uint8, or int16 to be read as unsigned.
    table
        (codes, channels) uint8.
    target
        Where to.
    """
    if codes.device.type != "cpu":
        gather(codes, table, target)
        return
    whole = codes.numpy().view(np.uint16 if codes.dtype == torch.int16 else np.uint8)
    for values, row in zip(table.numpy().T, target.numpy(), strict=True):
        _look_up(whole, values, row)


def gather(codes: Tensor, table: Tensor, target: Tensor) -> None:
    """As `decode`, as a GPU does it fastest."""
    flat = codes.reshape(-1).int()
    if codes.dtype == torch.int16:
        flat.bitwise_and_(0xFFFF)
    columns = table.t().contiguous().to(codes.device)
    torch.index_select(columns, 1, flat, out=target.view(len(target), -1))


def _look_up(codes: NDArray, values: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    """Write `values` of codes, by comparing where that is faster than looking each voxel up."""
    usual = int(np.bincount(values).argmax())
    # Python's numbers, since NumPy's own would widen the codes to compare them.
    others = np.flatnonzero(values != usual).tolist()
    if not others:
        target.fill(usual)
    elif len(others) > COMPARED:
        np.take(values, codes, out=target, mode="clip")
    else:
        _differ(codes, others[0], int(values[others[0]]) ^ usual, target)
        for code in others[1:]:
            target ^= _differ(codes, code, int(values[code]) ^ usual, np.empty_like(target))
        if usual:
            target ^= usual


def _differ(codes: NDArray, code: int, by: int, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Write `by` where there is that code, 0 elsewhere."""
    np.equal(codes, code, out=out.view(bool))
    if by != 1:
        out *= by
    return out
