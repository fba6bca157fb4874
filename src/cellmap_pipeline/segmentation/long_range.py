"""Long-range affinities: whether voxels at a distance are of one object.

Where objects touch, affinities of neighbors tell them apart in a layer of one voxel, whose place a
network often does not know. Affinities over n voxels do so in a layer of n voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import class_of, long_range_offset_nm
from cellmap_pipeline.geometry import Shape, pair_slices, shape_of
from cellmap_pipeline.segmentation.agglomeration import (
    Contacts,
    combine_contacts,
    relabel_contacts,
)


@dataclass(frozen=True)
class LongRange:
    """Values of pairs of voxels at a distance.

    Attributes
    ----------
    offset
        Voxels (z, y, x) from the second voxel of a pair to the first one.
    boundary
        float32 (z, y, x), at the first voxel of each pair the probability that the two are of
        different objects.
    """

    offset: Shape
    boundary: NDArray[np.float32]

    @property
    def steps(self) -> int:
        """Number of steps to neighbors, z, y and x together, that lead from voxel to voxel."""
        return sum(map(abs, self.offset))


def long_range_offsets(
    label: str, names: Iterable[str], voxel_size: Sequence[float]
) -> dict[str, Shape]:
    """Return the offsets of a label's long-range affinities, in voxels of a grid.

    They are whole numbers of the network's voxels and are rounded to those of the grid, so they are
    off by up to half a voxel. On a coarser grid, an offset may round to a neighbor or to the voxel
    itself; it is left out, since nearest neighbors have channels of their own. Of several that
    round to the same offset, the nearest one is used.

    Parameters
    ----------
    label
        Name of the label.
    names
        Names of channels.
    voxel_size
        Voxel size of the grid (z, y, x), nm.
    """
    nearest: dict[Shape, tuple[float, str]] = {}
    for name in names:
        offset_nm = long_range_offset_nm(name)
        if offset_nm is None or class_of(name) != label:
            continue
        voxels = [o / v for o, v in zip(offset_nm, voxel_size, strict=True)]
        offset = shape_of(map(_rounded, voxels))
        if sum(map(abs, offset)) > 1:
            found = math.dist(voxels, offset), name
            nearest[offset] = min(nearest.get(offset, found), found)
    return {name: offset for offset, (_, name) in nearest.items()}


def _rounded(value: float) -> int:
    """Round a number; halves away from 0, so that opposite offsets stay opposite."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def read_long_range(
    offsets: dict[str, Shape], probability: Callable[[str], NDArray[np.float32]]
) -> list[LongRange]:
    """Read long-range affinities as probabilities of a boundary.

    Parameters
    ----------
    offsets
        By channel, as of `long_range_offsets`.
    probability
        Returns the probability of a channel, float32 (z, y, x), 0..1.
    """
    return [LongRange(offset, 1 - probability(name)) for name, offset in offsets.items()]


def ridge_height(
    boundaries: Sequence[NDArray[np.float32]], long_range: Sequence[LongRange]
) -> NDArray[np.float32]:
    """Return the mean probability of a boundary at each voxel, float32 (z, y, x).

    A boundary between neighbors is a ridge on both of them: on one alone, the basin of the other
    one could flood that voxel, too, and reach the next basin through a face that is open. A pair of
    voxels at a distance counts at the voxel halfway between them. So the ridges of all offsets have
    the boundary in their middle.

    Parameters
    ----------
    boundaries
        By axis, the probability of a boundary between each voxel and the previous one.
    long_range
        That between voxels at a distance.
    """
    total = np.zeros(boundaries[0].shape, np.float32)
    for axis, boundary in enumerate(boundaries):
        ridge = boundary.copy()
        here, previous = pair_slices(ridge.shape, shape_of(a == axis for a in range(3)))
        np.maximum(ridge[previous], boundary[here], out=ridge[previous])
        total += ridge
    count = np.full(total.shape, len(boundaries), np.float32)
    for pairs in long_range:
        ends, middles = pair_slices(total.shape, half_offset(pairs.offset))
        total[middles] += pairs.boundary[ends]
        count[middles] += 1
    return total / count


def longest(offsets: Iterable[Shape]) -> list[int]:
    """Return the longest of offsets along each axis, those of neighbors among them."""
    return [max(map(abs, lengths)) for lengths in zip((1, 1, 1), *offsets, strict=True)]


def half_offset(offset: Shape) -> Shape:
    """Return half of an offset, rounded to voxels towards the first voxel of a pair."""
    return shape_of(int(o / 2) for o in offset)


def find_long_range_contacts(
    labels: NDArray[Any], long_range: Sequence[LongRange], box: tuple[slice, ...] | None = None
) -> Contacts:
    """Find the pairs of fragments that voxels at a distance lie in, with their statistics.

    A flat contact of n faces has up to n pairs for each step of an offset, which tell much the
    same. So each pair counts as a fraction of a face: 1 / steps.

    Parameters
    ----------
    labels
        Integers, shape (z, y, x); 0 is background.
    long_range
        Values of the pairs of voxels, by offset.
    box
        Where the first voxels of the pairs lie, so that pairs count once in windows that overlap;
        None means everywhere.
    """
    size = int(labels.max(initial=0)) + 1
    found = []
    counts = np.ones(labels.shape, bool)
    if box is not None:
        counts[:] = False
        counts[box] = True
    for pairs in long_range:
        here, there = pair_slices(labels.shape, pairs.offset)
        one, other = labels[here], labels[there]
        apart = (one != other) & (one != 0) & (other != 0) & counts[here]
        one, other = one[apart].astype(np.int64), other[apart].astype(np.int64)
        values = pairs.boundary[here][apart].astype(np.float64)
        areas = np.full(values.size, 1 / pairs.steps)
        per_pair = Contacts(np.minimum(one, other), np.maximum(one, other), areas, values, values)
        found.append(relabel_contacts(per_pair, np.arange(size)))
    return combine_contacts(found, size)


def pool_long_range(contacts: Contacts, long_range: Contacts, size: int) -> Contacts:
    """Pool the values of voxels at a distance into the contacts of fragments that share faces.

    Pairs of fragments that share no face are left out, since they can not merge directly.

    Parameters
    ----------
    contacts
        Contacts of fragments that share faces.
    long_range
        As of `find_long_range_contacts`.
    size
        Highest id + 1.
    """
    touching = contacts.first * np.int64(size) + contacts.second
    pairs = long_range.first * np.int64(size) + long_range.second
    both = np.isin(pairs, touching)
    kept = Contacts(*(getattr(long_range, f.name)[both] for f in fields(Contacts)))
    return combine_contacts([contacts, kept], size)
