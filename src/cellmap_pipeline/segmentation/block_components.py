"""Connected components of volumes of any size, exactly as on the whole volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.run.pools import Workers
from cellmap_pipeline.segmentation.agglomeration import groups
from cellmap_pipeline.segmentation.blocks import Block, Scratch

Connectivity = Literal[6, 26]


@dataclass(frozen=True)
class Parts:
    """The components within one block, 1..n.

    Attributes
    ----------
    values, sizes, first
        int64 (n,), of each component: what its voxels hold, their number, and the least index among
        them in the volume's scan order.
    """

    values: NDArray[np.int64]
    sizes: NDArray[np.int64]
    first: NDArray[np.int64]


@dataclass(frozen=True)
class Components:
    """Components of a volume, numbered 1..n in scan order.

    Attributes
    ----------
    volume
        Their parts by block, numbered from 1 in each.
    blocks
        The blocks.
    offsets
        int64 (blocks + 1,), number of parts before each block.
    lookup
        int64, the component of each part, all blocks together; first that of background, 0.
    values, sizes, first
        int64 (n + 1,), as in `Parts`, by component.
    """

    volume: Scratch
    blocks: Sequence[Block]
    offsets: NDArray[np.int64]
    lookup: NDArray[np.int64]
    values: NDArray[np.int64]
    sizes: NDArray[np.int64]
    first: NDArray[np.int64]

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.int64]:
        """Components of the voxels `start` to `stop`."""
        return self.lookup[numbered(self.volume, self.blocks, self.offsets, start, stop)]


def label_blocks(
    make: Callable[[Block], NDArray[Any]],
    blocks: Sequence[Block],
    volume: Scratch,
    connectivity: Connectivity,
    run: Workers,
    what: str,
) -> Components:
    """Number the connected components of equal values above 0.

    Parameters
    ----------
    make
        Gives the values of a block; called once for each, in any process.
    blocks
        All of the volume.
    volume
        uint32, gets the parts.
    connectivity
        Of voxels: 6 by faces, 26 by corners, too.
    what
        The progress bar's name.
    """
    work = partial(_label_block, make, volume, connectivity)
    parts = list(run.run(work, blocks, what))
    offsets = np.cumsum([0, *(len(part.values) for part in parts)])
    background = [np.zeros(1, np.int64)]
    values = np.concatenate([*background, *(part.values for part in parts)])
    pairs = [np.zeros((2, 0), np.int64)]
    for near, far in _neighbouring_planes(volume, blocks, offsets):
        pairs += _touching(near, far, values, connectivity)
    one, other = np.concatenate(pairs, axis=1)
    least = groups(values.size, one, other)
    sizes = np.bincount(least, np.concatenate([*background, *(p.sizes for p in parts)]))
    first = np.full(values.size, np.iinfo(np.int64).max)
    np.minimum.at(first, least, np.concatenate([*background, *(p.first for p in parts)]))
    # Background stays first; the others by their first voxel.
    roots = np.flatnonzero(least == np.arange(least.size))[1:]
    roots = np.concatenate([[0], roots[np.argsort(first[roots])]])
    number = np.zeros(values.size, np.int64)
    number[roots] = np.arange(roots.size)
    return Components(
        volume, blocks, offsets, number[least], values[roots],
        sizes[roots].astype(np.int64), first[roots],
    )  # fmt: skip


def numbered(
    volume: Scratch,
    blocks: Sequence[Block],
    offsets: NDArray[np.int64],
    start: Sequence[int],
    stop: Sequence[int],
    above: int = 0,
) -> NDArray[np.int64]:
    """A box of what is numbered in each block on its own: what is `above` a number, plus the
    block's offset.
    """
    result = volume.read(start, stop).astype(np.int64)
    for block in blocks:
        low = [max(a, b) for a, b in zip(start, block.start, strict=True)]
        high = [min(a, b) for a, b in zip(stop, block.stop, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            box = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            result[box] += np.where(result[box] > above, offsets[block.index], 0)
    return result


def first_voxels(labels: NDArray[Any], block: Block, shape: Shape) -> NDArray[np.int64]:
    """By label 0..n of a block, the least index of its voxels in the whole volume's scan order."""
    first = np.full(int(labels.max(initial=0)) + 1, np.iinfo(np.int64).max)
    flat = labels.ravel()
    # Of repeated labels the last assignment stays: from back to front, that of the first voxel.
    first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)
    z, y, x = np.unravel_index(np.minimum(first, flat.size - 1), labels.shape)
    place = (z + block.start[0], y + block.start[1], x + block.start[2])
    index = np.ravel_multi_index(place, shape).astype(np.int64)
    return np.where(first < flat.size, index, first)


def _label_block(
    make: Callable[[Block], NDArray[Any]], volume: Scratch, connectivity: Connectivity, block: Block
) -> Parts:
    values = make(block)
    if not values.any():
        return Parts(*(np.zeros(0, np.int64),) * 3)
    if values.dtype == bool:
        # For bool, cc3d (4.1.1) counts too few provisional labels in thin volumes and fails.
        values = values.view(np.uint8)
    # Of a view of n × 1 × 1 voxels, cc3d (4.1.1) reads others than these.
    values = np.ascontiguousarray(values)
    parts = cc3d.connected_components(values, connectivity=connectivity, out_dtype=np.uint32)
    volume.write(block.start, parts)
    of_part = np.zeros(int(parts.max()) + 1, np.int64)
    of_part[parts.ravel()] = values.ravel()
    sizes = np.bincount(parts.ravel(), minlength=of_part.size)
    first = first_voxels(parts, block, volume.shape)
    return Parts(of_part[1:], sizes[1:].astype(np.int64), first[1:])


def _neighbouring_planes(
    volume: Scratch, blocks: Sequence[Block], offsets: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The two planes at each cut between blocks, all across the volume."""
    for axis in range(3):
        for place in sorted({block.start[axis] for block in blocks} - {0}):
            planes = []
            for at in (place - 1, place):
                start, stop = [0, 0, 0], list(volume.shape)
                start[axis], stop[axis] = at, at + 1
                plane = numbered(volume, blocks, offsets, start, stop)
                planes.append(plane.squeeze(axis))
            yield planes[0], planes[1]


def _touching(
    near: NDArray[np.int64],
    far: NDArray[np.int64],
    values: NDArray[np.int64],
    connectivity: Connectivity,
) -> Iterator[NDArray[np.int64]]:
    """Pairs of parts of equal value that touch across two planes, (2, n) each."""
    reach = [(0, 0)] if connectivity == 6 else product((-1, 0, 1), repeat=2)
    for shift in reach:
        ends = [
            (slice(max(0, -s), n - max(0, s)), slice(max(0, s), n - max(0, -s)))
            for s, n in zip(shift, near.shape, strict=True)
        ]
        one = near[ends[0][0], ends[1][0]]
        other = far[ends[0][1], ends[1][1]]
        same = (one > 0) & (other > 0)
        one, other = one[same], other[same]
        alike = values[one] == values[other]
        if alike.any():
            yield np.unique(np.stack([one[alike], other[alike]]), axis=1)
