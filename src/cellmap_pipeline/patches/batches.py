"""Batches of patches, built on the device that they are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.channels import DESCRIPTOR_SUFFIXES, class_of, depends_on_ids
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.patches.augmentation.transfer import to_device
from cellmap_pipeline.patches.augmentation.transform import transform_patch
from cellmap_pipeline.patches.descriptors import write_descriptors
from cellmap_pipeline.patches.patch import Patch
from cellmap_pipeline.patches.targets import (
    ID_DIGIT_SUFFIXES,
    affinity_offset,
    object_ids,
    scale_distances,
    stored_channels,
    write_affinity,
)

# Up to this many codes, comparing all voxels with each code is as fast on a CPU as a lookup.
MAX_COMPARED_CODES = 8


class BatchBuilder:
    """Builds batches from patches, on the device that they are trained on.

    On the CPU, memory is reused: a batch is valid until the next one is built.

    Parameters
    ----------
    device
        The device.
    patch_size
        Shape of a patch, in voxels.
    voxel_size
        Voxel size along z, y, x in nm.
    channels
        Channels of the network.
    descriptor_sigmas_nm
        Sigma of the local shape descriptors of each class that has them, nm.
    """

    def __init__(
        self,
        device: torch.device,
        patch_size: Shape,
        voxel_size: Vector,
        channels: Sequence[str],
        descriptor_sigmas_nm: Mapping[str, float] = {},
    ) -> None:
        self.device = device
        self.patch_size = patch_size
        self.voxel_size = voxel_size
        self.channels = list(channels)
        self.descriptor_sigmas_nm = descriptor_sigmas_nm
        self.stored = stored_channels(channels)
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, patches: Sequence[Patch]) -> tuple[Tensor, Tensor]:
        """Transform the patches and decode their targets.

        Returns
        -------
        raw
            (n, 1, z, y, x) float32, standardized (`patches.normalization`): 0..1 for
            `normalize: range`.
        targets
            (n, c, z, y, x) uint8 with the values of `targets.make_targets`, 255 where unknown.
        """
        raws, targets = self._buffers_for(len(patches))
        for patch, raw, target in zip(patches, raws, targets, strict=True):
            codes = transform_patch(
                to_device(patch.raw, self.device), to_device(patch.codes, self.device),
                patch.transform, self.patch_size, self.voxel_size, raw[0], patch.normalization,
            )  # fmt: skip
            table, scale = patch.table, patch.transform.scale
            if scale != 1:
                table = scale_distances(table, self.stored, scale)
            if self.stored == self.channels:
                decode_targets(codes, table, target)
            else:
                self._decode_with_ids(codes, table, target)
        return raws, targets

    def _decode_with_ids(self, codes: Tensor, table: Tensor, target: Tensor) -> None:
        """Decode the targets, and make those that depend on the object ids (see `targets`)."""
        shape = (len(self.stored), *self.patch_size)
        stored = torch.empty(shape, dtype=torch.uint8, device=self.device)
        decode_targets(codes, table, stored)
        index_of = {name: i for i, name in enumerate(self.stored)}
        for channel, values in zip(self.channels, target, strict=True):
            if channel in index_of:
                values.copy_(stored[index_of[channel]])

        def ids_of(label: str) -> Tensor:
            return object_ids(*(stored[index_of[label + suffix]] for suffix in ID_DIGIT_SUFFIXES))

        write_id_targets(ids_of, self.channels, self.voxel_size, self.descriptor_sigmas_nm, target)

    def _buffers_for(self, size: int) -> tuple[Tensor, Tensor]:
        """Return raw and targets of a batch of `size` patches, to be written."""
        buffers = self._buffers.get(size)
        if buffers is None:
            raws = torch.empty((size, 1, *self.patch_size), device=self.device)
            shape = (size, len(self.channels), *self.patch_size)
            buffers = raws, torch.empty(shape, dtype=torch.uint8, device=self.device)
            if self.device.type == "cpu":
                self._buffers[size] = buffers
        return buffers


def write_id_targets(
    ids_of: Callable[[str], Tensor],
    channels: Sequence[str],
    voxel_size: Vector,
    descriptor_sigmas_nm: Mapping[str, float],
    out: Tensor,
) -> None:
    """Write the targets that depend on object ids: affinities and local shape descriptors.

    Parameters
    ----------
    ids_of
        Function that returns the object ids (z, y, x) of a class, as of `targets.object_ids`.
    channels
        Channels of the network; the descriptors of a class follow one another.
    voxel_size
        Voxel size along z, y, x in nm.
    descriptor_sigmas_nm
        Sigma of the local shape descriptors of each class that has them, nm.
    out
        (channels, z, y, x) uint8, receives these targets; other channels are left as they are.
    """
    by_class: dict[str, list[int]] = {}
    for i, channel in enumerate(channels):
        if depends_on_ids(channel):
            by_class.setdefault(class_of(channel), []).append(i)
    for label, indices in by_class.items():
        ids = ids_of(label)
        for i in indices:
            offset = affinity_offset(channels[i], voxel_size)
            if offset is not None:
                write_affinity(ids, offset, out[i])
            elif channels[i].endswith(DESCRIPTOR_SUFFIXES[0]):
                descriptors = out[i : i + len(DESCRIPTOR_SUFFIXES)]
                write_descriptors(ids, descriptor_sigmas_nm[label], voxel_size, descriptors)


def decode_targets(codes: Tensor, table: Tensor, target: Tensor) -> None:
    """Write the targets that codes stand for.

    Parameters
    ----------
    codes
        (z, y, x) uint8, or int16 that holds the bits of uint16.
    table
        (codes, channels) uint8, the targets of each code.
    target
        (channels, z, y, x) uint8, receives the targets.
    """
    if codes.device.type != "cpu":
        decode_by_gather(codes, table, target)
        return
    unsigned = codes.numpy().view(np.uint16 if codes.dtype == torch.int16 else np.uint8)
    for values, channel in zip(table.numpy().T, target.numpy(), strict=True):
        _decode_channel(unsigned, values, channel)


def decode_by_gather(codes: Tensor, table: Tensor, target: Tensor) -> None:
    """Like `decode_targets`, in the way that is fastest on a GPU."""
    flat = codes.reshape(-1).int()
    if codes.dtype == torch.int16:
        flat.bitwise_and_(0xFFFF)
    columns = to_device(table, codes.device).t().contiguous()
    torch.index_select(columns, 1, flat, out=target.view(len(target), -1))


def _decode_channel(codes: NDArray, values: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    """Write the value of each code, by comparison where that is faster than a lookup."""
    usual = int(np.bincount(values).argmax())
    # Python integers: comparing with NumPy's would convert the codes to a wider type.
    others = np.flatnonzero(values != usual).tolist()
    if not others:
        target.fill(usual)
    elif len(others) > MAX_COMPARED_CODES:
        np.take(values, codes, out=target, mode="clip")
    else:
        _write_where_equal(codes, others[0], int(values[others[0]]) ^ usual, target)
        for code in others[1:]:
            difference = int(values[code]) ^ usual
            target ^= _write_where_equal(codes, code, difference, np.empty_like(target))
        if usual:
            target ^= usual


def _write_where_equal(
    codes: NDArray, code: int, value: int, out: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Write `value` where `codes` equal `code`, and 0 elsewhere."""
    np.equal(codes, code, out=out.view(bool))
    if value != 1:
        out *= value
    return out
