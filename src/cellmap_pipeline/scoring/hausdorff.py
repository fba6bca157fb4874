"""Hausdorff distances between objects, from their surfaces.

The official evaluator transforms the volume around each object twice. The same distances come from
the outermost voxels of the two objects and those voxels of each that lie outside the other, and so
cost what the objects are large, not what the volume is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cellmap_pipeline.scoring.objects import Objects
from cellmap_pipeline.scoring.slabs import SLAB_VOXELS, Box

FACTOR = 4
# Cubes that are divided at a time.
BATCH = 256
# Points of a tree; a larger surface is searched in parts.
TREE_POINTS = 1 << 24


def hausdorff(
    true: Objects,
    number: int,
    predicted: Objects,
    parts: Sequence[int],
    spacing: NDArray[np.float64],
    cap: float,
) -> float:
    """Hausdorff distance of a true object to the union of `parts` of the prediction.

    Parameters
    ----------
    spacing
        Voxel size, nm, z, y, x.
    cap
        nm; the distance is at most this, and this where there are no parts.

    Returns
    -------
    nm.
    """
    if not parts:
        return cap

    def missed(box: Box) -> NDArray[np.bool_]:
        inside = true.volume[box] == number
        for part in parts:
            inside &= predicted.volume[box] != part
        return inside

    distance = 0.0
    mask = _mask(missed, true.box(number))
    if mask.any():
        surface = Surface.of(predicted, parts, spacing)
        distance = farthest(mask, true.starts[number], surface, cap)
    del mask
    own = None
    for part in parts:
        if distance >= cap:
            break

        def extra(box: Box, part: int = part) -> NDArray[np.bool_]:
            return (predicted.volume[box] == part) & (true.volume[box] != number)

        mask = _mask(extra, predicted.box(part))
        if mask.any():
            own = own or Surface.of(true, [number], spacing)
            distance = max(distance, farthest(mask, predicted.starts[part], own, cap))
    return min(distance, cap)


@dataclass
class Surface:
    """The outermost voxels of objects: for points outside them the nearest voxel is one of these.

    Attributes
    ----------
    voxels
        (n, 3).
    spacing
        Voxel size, nm.
    """

    voxels: NDArray[np.int32]
    spacing: NDArray[np.float64]

    def __post_init__(self) -> None:
        self._tree = self._tree_of(self.voxels) if len(self.voxels) <= TREE_POINTS else None

    @classmethod
    def of(cls, objects: Objects, numbers: Sequence[int], spacing: NDArray[np.float64]) -> Surface:
        """The surface of the union of some objects; voxels within it may be among it."""
        voxels = [_outermost(objects, number) for number in numbers]
        return cls(np.concatenate(voxels), spacing)

    def distance(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Distance (nm) of each of `points` ((n, 3), voxels) to the nearest voxel."""
        if self._tree is not None:
            return self._distance(points, self.voxels, self._tree)
        nearest = np.full(len(points), np.inf)
        for start in range(0, len(self.voxels), TREE_POINTS):
            voxels = self.voxels[start : start + TREE_POINTS]
            tree = self._tree_of(voxels)
            np.minimum(nearest, self._distance(points, voxels, tree), out=nearest)
        return nearest

    def _tree_of(self, voxels: NDArray[np.int32]) -> cKDTree:
        # On a lattice, medians make slow trees: many points share a coordinate.
        return cKDTree(voxels * self.spacing, balanced_tree=False, compact_nodes=False)

    def _distance(
        self, points: NDArray[Any], voxels: NDArray[np.int32], tree: cKDTree
    ) -> NDArray[np.float64]:
        _, nearest = tree.query(points * self.spacing)
        # From whole voxels apart, as in a distance transform, so that both round alike.
        apart = (points - voxels[nearest]) * self.spacing
        return np.sqrt((apart * apart).sum(axis=1))


def farthest(
    mask: NDArray[np.bool_], origin: NDArray[np.int64], surface: Surface, cap: float
) -> float:
    """Largest distance (nm) of a voxel of `mask` to `surface`; `cap` or more is not told apart.

    From coarse to fine: the distance at the centre of a cube bounds that of its voxels from both
    sides, so only cubes that can hold the farthest voxel are divided.

    Parameters
    ----------
    mask
        (z, y, x), padded to whole cubes of `FACTOR`; not empty.
    origin
        Of its first voxel, in voxels of the volume.
    """
    levels = [mask]
    while max(levels[-1].shape) > FACTOR:
        levels.append(_padded(_coarser(levels[-1])))
    search = _Search(levels, origin, surface, cap)
    search.descend(len(levels) - 1, _where(levels[-1]))
    return min(search.best, cap)


@dataclass
class _Search:
    """The search of `farthest`: most promising cubes first, down to their voxels.

    Attributes
    ----------
    levels
        The mask, and where cubes of it of growing sizes hold some of it.
    best
        Largest distance that is known to occur.
    """

    levels: list[NDArray[np.bool_]]
    origin: NDArray[np.int64]
    surface: Surface
    cap: float
    best: float = 0.0

    def descend(self, level: int, cells: NDArray[np.int64]) -> None:
        """Raise `best` to the largest distance within some cubes of a level."""
        size = FACTOR**level
        centres = self.surface.distance(cells * size + (size - 1) / 2 + self.origin)
        if level == 0:
            self.best = max(self.best, float(centres.max()))
            return
        radius = (size - 1) / 2 * float(np.linalg.norm(self.surface.spacing))
        self.best = max(self.best, float(centres.max()) - radius)
        order = np.argsort(-centres)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            batch = batch[centres[batch] + radius >= self.best * (1 - 1e-9)]
            if not batch.size or self.best >= self.cap:
                return
            z, y, x = cells[batch].T
            finer = self.levels[level - 1]
            cube, *inside = np.nonzero(_cubes(finer)[z, :, y, :, x, :])
            self.descend(level - 1, cells[batch][cube] * FACTOR + np.stack(inside, axis=1))


def _mask(where: Callable[[Box], NDArray[np.bool_]], box: Box) -> NDArray[np.bool_]:
    """What is `where` in a box, padded to whole cubes."""
    shape = [part.stop - part.start for part in box]
    mask = np.zeros([n + -n % FACTOR for n in shape], bool)
    for part in _layers(box):
        z = slice(part[0].start - box[0].start, part[0].stop - box[0].start)
        mask[z, : shape[1], : shape[2]] = where(part)
    return mask


def _outermost(objects: Objects, number: int) -> NDArray[np.int32]:
    """(n, 3) voxels of an object that have a neighbour (of six) outside it, or outside its box."""
    box = objects.box(number)
    found = []
    for part in _layers(box):
        below = max(part[0].start - 1, box[0].start)
        above = min(part[0].stop + 1, box[0].stop)
        inside = objects.volume[slice(below, above), part[1], part[2]] == number
        core = inside.copy()
        for axis in range(3):
            front, back = [slice(None)] * 3, [slice(None)] * 3
            front[axis], back[axis] = slice(None, -1), slice(1, None)
            core[tuple(front)] &= inside[tuple(back)]
            core[tuple(back)] &= inside[tuple(front)]
            for edge in (box[axis].start, box[axis].stop - 1):
                at = [slice(None)] * 3
                first = below if axis == 0 else part[axis].start
                last = above if axis == 0 else part[axis].stop
                if first <= edge < last:
                    at[axis] = slice(edge - first, edge - first + 1)
                    core[tuple(at)] = False
        outer = (inside & ~core)[part[0].start - below : part[0].stop - below]
        start = np.array([part[0].start, part[1].start, part[2].start], np.int32)
        found.append(_where(outer).astype(np.int32) + start)
    return np.concatenate(found)


def _layers(box: Box) -> Iterator[Box]:
    """A box in parts along its first axis, of at most about `SLAB_VOXELS` voxels each."""
    plane = math.prod(part.stop - part.start for part in box[1:])
    thick = max(1, SLAB_VOXELS // plane)
    for z in range(box[0].start, box[0].stop, thick):
        yield slice(z, min(z + thick, box[0].stop)), box[1], box[2]


def _where(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n, 3) voxels of a mask. Like `np.argwhere`, but faster."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def _coarser(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which cubes of a padded mask hold some of it."""
    # The bytes of four voxels in a row are one number.
    rows = mask.view(np.uint32) != 0
    planes = rows[:, ::4] | rows[:, 1::4] | rows[:, 2::4] | rows[:, 3::4]
    return planes[::4] | planes[1::4] | planes[2::4] | planes[3::4]


def _padded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`mask` padded to whole cubes."""
    pad = [(0, -n % FACTOR) for n in mask.shape]
    return np.pad(mask, pad) if any(after for _, after in pad) else mask


def _cubes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """View of a padded mask in which axes 1, 3, 5 run within a cube."""
    nz, ny, nx = (n // FACTOR for n in mask.shape)
    return mask.reshape(nz, FACTOR, ny, FACTOR, nx, FACTOR)
