"""Connected components of volumes of any size, equal to those of the whole volume."""

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
from cellmap_pipeline.segmentation.agglomeration import group_ids
from cellmap_pipeline.segmentation.blocks import Block, ScratchVolume

Connectivity = Literal[6, 26]


@dataclass(frozen=True)
class BlockComponents:
    """The components within one block, 1..n.

    Attributes
    ----------
    values
        int64 (n,), value of each component's voxels.
    sizes
        int64 (n,), number of its voxels.
    first
        int64 (n,), least index of its voxels in the volume's scan order.
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
        Components within each block, numbered from 1 in each.
    blocks
        All blocks of the volume.
    offsets
        int64 (blocks + 1,), number of components in the blocks before each block.
    lookup
        int64, component of each block's components, all blocks concatenated; preceded by that of
        the background, 0.
    values, sizes, first
        int64 (n + 1,), as in `BlockComponents`, by component.
    """

    volume: ScratchVolume
    blocks: Sequence[Block]
    offsets: NDArray[np.int64]
    lookup: NDArray[np.int64]
    values: NDArray[np.int64]
    sizes: NDArray[np.int64]
    first: NDArray[np.int64]

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.int64]:
        """Read the components of the voxels `start` to `stop`."""
        return self.lookup[read_with_offsets(self.volume, self.blocks, self.offsets, start, stop)]


def label_blocks(
    make: Callable[[Block], NDArray[Any]],
    blocks: Sequence[Block],
    volume: ScratchVolume,
    connectivity: Connectivity,
    pool: Workers,
    description: str,
) -> Components:
    """Label the connected components of equal values above 0.

    Parameters
    ----------
    make
        Returns the values of a block; called once for each block, in any process.
    blocks
        All blocks of the volume.
    volume
        uint32 volume to which the components of each block are written.
    connectivity
        Whether voxels are connected by faces (6), or also by edges and corners (26).
    pool
        Processes that work on the blocks.
    description
        Title of the progress bar.
    """
    work = partial(_label_block, make, volume, connectivity)
    by_block = list(pool.run(work, blocks, description))
    offsets = np.cumsum([0, *(len(found.values) for found in by_block)])
    background = [np.zeros(1, np.int64)]
    values = np.concatenate([*background, *(found.values for found in by_block)])
    pairs = [np.zeros((2, 0), np.int64)]
    for near, far in _planes_at_cuts(volume, blocks, offsets):
        pairs += _touching_pairs(near, far, values, connectivity)
    one, other = np.concatenate(pairs, axis=1)
    least = group_ids(values.size, one, other)
    sizes = np.bincount(least, np.concatenate([*background, *(b.sizes for b in by_block)]))
    first = np.full(values.size, np.iinfo(np.int64).max)
    np.minimum.at(first, least, np.concatenate([*background, *(b.first for b in by_block)]))
    # Background stays first; the others are sorted by their first voxel.
    roots = np.flatnonzero(least == np.arange(least.size))[1:]
    roots = np.concatenate([[0], roots[np.argsort(first[roots])]])
    number = np.zeros(values.size, np.int64)
    number[roots] = np.arange(roots.size)
    return Components(
        volume, blocks, offsets, number[least], values[roots],
        sizes[roots].astype(np.int64), first[roots],
    )  # fmt: skip


def read_with_offsets(
    volume: ScratchVolume,
    blocks: Sequence[Block],
    offsets: NDArray[np.int64],
    start: Sequence[int],
    stop: Sequence[int],
    above: int = 0,
) -> NDArray[np.int64]:
    """Read voxels `start` to `stop` of ids that are numbered separately in each block.

    The block's offset is added to ids greater than `above`, which makes them unique in the volume.
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
    """Return, by label 0..n of a block, its first voxel as an index in the whole volume."""
    first = np.full(int(labels.max(initial=0)) + 1, np.iinfo(np.int64).max)
    flat = labels.ravel()
    # Of repeated labels the last assignment stays: from back to front, that of the first voxel.
    first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)
    z, y, x = np.unravel_index(np.minimum(first, flat.size - 1), labels.shape)
    position = (z + block.start[0], y + block.start[1], x + block.start[2])
    index = np.ravel_multi_index(position, shape).astype(np.int64)
    return np.where(first < flat.size, index, first)


def _label_block(
    make: Callable[[Block], NDArray[Any]],
    volume: ScratchVolume,
    connectivity: Connectivity,
    block: Block,
) -> BlockComponents:
    values = make(block)
    if not values.any():
        return BlockComponents(*(np.zeros(0, np.int64),) * 3)
    if values.dtype == bool:
        # For bool, cc3d (4.1.1) counts too few provisional labels in thin volumes and fails.
        values = values.view(np.uint8)
    # cc3d (4.1.1) reads wrong voxels from a non-contiguous view of n × 1 × 1 voxels.
    values = np.ascontiguousarray(values)
    labels = cc3d.connected_components(values, connectivity=connectivity, out_dtype=np.uint32)
    volume.write(block.start, labels)
    value_of = np.zeros(int(labels.max()) + 1, np.int64)
    value_of[labels.ravel()] = values.ravel()
    sizes = np.bincount(labels.ravel(), minlength=value_of.size)
    first = first_voxels(labels, block, volume.shape)
    return BlockComponents(value_of[1:], sizes[1:].astype(np.int64), first[1:])


def _planes_at_cuts(
    volume: ScratchVolume, blocks: Sequence[Block], offsets: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the two planes on both sides of each cut between blocks, across the whole volume."""
    for axis in range(3):
        for position in sorted({block.start[axis] for block in blocks} - {0}):
            planes = []
            for at in (position - 1, position):
                start, stop = [0, 0, 0], list(volume.shape)
                start[axis], stop[axis] = at, at + 1
                plane = read_with_offsets(volume, blocks, offsets, start, stop)
                planes.append(plane.squeeze(axis))
            yield planes[0], planes[1]


def _touching_pairs(
    near: NDArray[np.int64],
    far: NDArray[np.int64],
    values: NDArray[np.int64],
    connectivity: Connectivity,
) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of components of equal value that touch across two planes, (2, n) each."""
    shifts = [(0, 0)] if connectivity == 6 else product((-1, 0, 1), repeat=2)
    for shift in shifts:
        ends = [
            (slice(max(0, -s), n - max(0, s)), slice(max(0, s), n - max(0, -s)))
            for s, n in zip(shift, near.shape, strict=True)
        ]
        one = near[ends[0][0], ends[1][0]]
        other = far[ends[0][1], ends[1][1]]
        both = (one > 0) & (other > 0)
        one, other = one[both], other[both]
        equal = values[one] == values[other]
        if equal.any():
            yield np.unique(np.stack([one[equal], other[equal]]), axis=1)
