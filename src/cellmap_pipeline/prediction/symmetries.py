"""Averages of a network's output over the symmetries of its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cellmap_pipeline.channels import class_of, is_descriptor
from cellmap_pipeline.config.symmetries import SYMMETRIES, Symmetry, transformed_offset
from cellmap_pipeline.geometry import Shape, Vector, pair_slices
from cellmap_pipeline.patches.targets import affinity_offset

NO_OFFSET: Shape = (0, 0, 0)
AXES = "zyx"


class ChannelOrigin(NamedTuple):
    """Where the value of a channel comes from, in the output for a transformed input.

    Attributes
    ----------
    channel
        Index of a channel of that output.
    offset
        After the transform is undone, the value of a voxel p lies at p - offset.
    mirrored
        Whether the value is 1 minus that of the origin.
    """

    channel: int
    offset: Shape = NO_OFFSET
    mirrored: bool = False


class SymmetricAverage:
    """Averages of probabilities over symmetries of the input.

    An affinity tells whether the voxels p and p - offset are of one object. A transformed input has
    the transformed offset: its affinity is that of another channel and, if a flip exchanges the two
    voxels, is found at p - offset. That voxel may lie outside of the window, so each voxel is
    divided by the number of values that it got.

    Local shape descriptors transform as a vector (the mean offset), a symmetric tensor (variances
    and correlations) and a scalar (the size). What changes its sign is stored around 1/2.

    Parameters
    ----------
    channels
        Names of the channels. With affinities, all that the symmetries exchange are among them.
    n_symmetries
        A key of `config.symmetries.SYMMETRIES`.
    voxel_size
        Voxel size of the network, nm.
    """

    def __init__(self, channels: Sequence[str], n_symmetries: int, voxel_size: Vector) -> None:
        self.symmetries = SYMMETRIES[n_symmetries]
        offsets = [affinity_offset(channel, voxel_size) for channel in channels]
        self._origins = [
            _channel_origins(channels, offsets, symmetry) for symmetry in self.symmetries
        ]
        self._counts: dict[tuple[torch.device, torch.Size], Tensor] = {}

    def add(
        self, total: Tensor | None, batch: Tensor, predict: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Add what `predict` returns for all transformed inputs to `total`, and return that.

        Parameters
        ----------
        total
            (n, c, z, y, x) float32, changed in place; None stands for 0.
        batch
            (n, 1, z, y, x).
        predict
            Returns the probabilities (n, c, z, y, x) of a batch, float32.
        """
        for symmetry, origins in zip(self.symmetries, self._origins, strict=True):
            values = undo_symmetry(predict(apply_symmetry(batch, symmetry)), symmetry)
            if total is None:
                total = values  # of the identity, which is the first symmetry
            elif origins is None:
                total += values
            else:
                _add(total, values, origins)
        assert total is not None
        return total

    def counts(self, total: Tensor) -> Tensor | int:
        """Return how many values `add` adds to each voxel, (c, z, y, x), or to all."""
        if not any(self._origins):
            return len(self.symmetries)
        shape = total.shape[1:]
        key = total.device, shape
        if key not in self._counts:
            counts = torch.ones(shape, device=total.device)
            ones = torch.ones(shape, device=total.device)
            for origins in self._origins[1:]:
                moved = [origin._replace(mirrored=False) for origin in origins or []]
                _add(counts[None], ones[None], moved or _unmoved(shape[0]))
            self._counts = {key: counts}
        return self._counts[key]


def apply_symmetry(tensor: Tensor, symmetry: Symmetry) -> Tensor:
    """Apply a symmetry to the last three axes of (n, c, z, y, x)."""
    axes, flips = symmetry
    return _flip(tensor.permute(0, 1, *(axis + 2 for axis in axes)), flips)


def undo_symmetry(tensor: Tensor, symmetry: Symmetry) -> Tensor:
    """Undo `apply_symmetry`."""
    axes, flips = symmetry
    inverse = [axes.index(axis) + 2 for axis in range(3)]
    return _flip(tensor, flips).permute(0, 1, *inverse)


def _channel_origins(
    channels: Sequence[str], offsets: Sequence[Shape | None], symmetry: Symmetry
) -> list[ChannelOrigin] | None:
    """Return the origin of each channel; None if all stay as they are."""
    origins = _unmoved(len(channels))
    index_of = {
        (class_of(channel), offset): i
        for i, (channel, offset) in enumerate(zip(channels, offsets, strict=True))
    }
    for i, (channel, offset) in enumerate(zip(channels, offsets, strict=True)):
        if is_descriptor(channel):
            name, mirrored = _descriptor_origin(channel, symmetry)
            origins[i] = ChannelOrigin(list(channels).index(name), mirrored=mirrored)
        elif offset is not None:
            other, negated = transformed_offset(offset, symmetry)
            origin = index_of[class_of(channel), other]
            origins[i] = ChannelOrigin(origin, offset if negated else NO_OFFSET)
    return None if origins == _unmoved(len(channels)) else origins


def _descriptor_origin(channel: str, symmetry: Symmetry) -> tuple[str, bool]:
    """Return where a descriptor is after a transform, and whether its sign changes."""
    axes, flips = symmetry
    kind, _, letters = channel.rpartition("_")
    if kind.endswith("_lsd"):
        return channel, False  # the size
    places = sorted(axes.index(AXES.index(letter)) for letter in letters)
    mirrored = sum(flips[place] for place in places) % 2 == 1 and not kind.endswith("_variance")
    return f"{kind}_{''.join(AXES[place] for place in places)}", mirrored


def _unmoved(n: int) -> list[ChannelOrigin]:
    return [ChannelOrigin(i) for i in range(n)]


def _add(total: Tensor, values: Tensor, origins: Sequence[ChannelOrigin]) -> None:
    """Add values (n, c, z, y, x) to the channels and voxels that they belong to, in place."""
    for i, origin in enumerate(origins):
        here, there = pair_slices(total.shape[2:], origin.offset)
        found = values[:, origin.channel][:, *there]
        total[:, i][:, *here] += 1 - found if origin.mirrored else found


def _flip(tensor: Tensor, flips: Sequence[bool]) -> Tensor:
    return tensor.flip([axis + 2 for axis, flip in enumerate(flips) if flip])
