"""Hausdorff distances between objects, computed from their surfaces.

The official evaluator computes two distance transforms of the volume around each object. The
surface voxels of the two objects, and the voxels of each that lie outside the other, give the same
distances, at a cost that depends on the size of the objects and not of the volume.
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

# Side of a cube in cells of the next finer level.
CUBE_SIDE = 4
# Number of cubes that are divided at a time.
BATCH_CUBES = 256
# A larger surface is searched in several trees, one after the other.
MAX_TREE_POINTS = 1 << 24


def hausdorff_distance(
    true: Objects,
    number: int,
    predicted: Objects,
    components: Sequence[int],
    spacing: NDArray[np.float64],
    cap: float,
) -> float:
    """Hausdorff distance between a true object and the union of some predicted components.

    Parameters
    ----------
    number
        Number of the true object.
    components
        Numbers of the predicted components.
    spacing
        Voxel size, nm, z, y, x.
    cap
        Maximum distance, nm; also the distance if there are no components.

    Returns
    -------
    Distance, nm.
    """
    if not components:
        return cap

    def false_negatives(box: Box) -> NDArray[np.bool_]:
        inside = true.volume[box] == number
        for component in components:
            inside &= predicted.volume[box] != component
        return inside

    distance = 0.0
    mask = _padded_mask(false_negatives, true.box(number))
    if mask.any():
        surface = Surface.of(predicted, components, spacing)
        distance = max_distance_to_surface(mask, true.starts[number], surface, cap)
    del mask
    true_surface = None
    for component in components:
        if distance >= cap:
            break

        def false_positives(box: Box, component: int = component) -> NDArray[np.bool_]:
            return (predicted.volume[box] == component) & (true.volume[box] != number)

        mask = _padded_mask(false_positives, predicted.box(component))
        if mask.any():
            true_surface = true_surface or Surface.of(true, [number], spacing)
            origin = predicted.starts[component]
            distance = max(distance, max_distance_to_surface(mask, origin, true_surface, cap))
    return min(distance, cap)


@dataclass
class Surface:
    """Surface voxels of objects, which include the nearest voxel to any point outside them.

    Attributes
    ----------
    voxels
        (n, 3) indices.
    spacing
        Voxel size, nm, z, y, x.
    """

    voxels: NDArray[np.int32]
    spacing: NDArray[np.float64]

    def __post_init__(self) -> None:
        self._tree = self._build_tree(self.voxels) if len(self.voxels) <= MAX_TREE_POINTS else None

    @classmethod
    def of(cls, objects: Objects, numbers: Sequence[int], spacing: NDArray[np.float64]) -> Surface:
        """Surface of the union of some objects; it may contain inner voxels of the union."""
        voxels = [_surface_voxels(objects, number) for number in numbers]
        return cls(np.concatenate(voxels), spacing)

    def distance(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Distance (nm) of each of `points` ((n, 3), in voxels) to the nearest surface voxel."""
        if self._tree is not None:
            return self._distance(points, self.voxels, self._tree)
        nearest = np.full(len(points), np.inf)
        for start in range(0, len(self.voxels), MAX_TREE_POINTS):
            voxels = self.voxels[start : start + MAX_TREE_POINTS]
            tree = self._build_tree(voxels)
            np.minimum(nearest, self._distance(points, voxels, tree), out=nearest)
        return nearest

    def _build_tree(self, voxels: NDArray[np.int32]) -> cKDTree:
        # Splitting at medians makes slow trees on a lattice: many points share a coordinate.
        return cKDTree(voxels * self.spacing, balanced_tree=False, compact_nodes=False)

    def _distance(
        self, points: NDArray[Any], voxels: NDArray[np.int32], tree: cKDTree
    ) -> NDArray[np.float64]:
        _, nearest = tree.query(points * self.spacing)
        # Scale the difference in voxels, as a distance transform does, for the same rounding.
        difference = (points - voxels[nearest]) * self.spacing
        return np.sqrt((difference * difference).sum(axis=1))


def max_distance_to_surface(
    mask: NDArray[np.bool_], origin: NDArray[np.int64], surface: Surface, cap: float
) -> float:
    """Largest distance (nm) of a voxel of `mask` to `surface`, at most `cap`.

    Searches from coarse to fine: the distance at the center of a cube bounds the distances of its
    voxels from both sides, so only cubes that can hold the farthest voxel are divided.

    Parameters
    ----------
    mask
        (z, y, x), padded to whole cubes of `CUBE_SIDE`; not empty.
    origin
        Index of the mask's first voxel in the volume.
    """
    levels = [mask]
    while max(levels[-1].shape) > CUBE_SIDE:
        levels.append(_padded(_coarser(levels[-1])))
    search = _Search(levels, origin, surface, cap)
    search.descend(len(levels) - 1, _voxel_indices(levels[-1]))
    return min(search.best, cap)


@dataclass
class _Search:
    """Search of `max_distance_to_surface`: most promising cubes first, down to their voxels.

    Attributes
    ----------
    levels
        The mask, and its occupied cubes of increasing size.
    best
        Largest distance that is known to occur, nm.
    """

    levels: list[NDArray[np.bool_]]
    origin: NDArray[np.int64]
    surface: Surface
    cap: float
    best: float = 0.0

    def descend(self, level: int, cells: NDArray[np.int64]) -> None:
        """Raise `best` to the largest distance within some cubes of a level."""
        size = CUBE_SIDE**level
        distances = self.surface.distance(cells * size + (size - 1) / 2 + self.origin)
        if level == 0:
            self.best = max(self.best, float(distances.max()))
            return
        radius = (size - 1) / 2 * float(np.linalg.norm(self.surface.spacing))
        self.best = max(self.best, float(distances.max()) - radius)
        order = np.argsort(-distances)
        for start in range(0, len(order), BATCH_CUBES):
            batch = order[start : start + BATCH_CUBES]
            batch = batch[distances[batch] + radius >= self.best * (1 - 1e-9)]
            if not batch.size or self.best >= self.cap:
                return
            z, y, x = cells[batch].T
            finer = self.levels[level - 1]
            cube, *cell = np.nonzero(_cubes(finer)[z, :, y, :, x, :])
            self.descend(level - 1, cells[batch][cube] * CUBE_SIDE + np.stack(cell, axis=1))


def _padded_mask(read_mask: Callable[[Box], NDArray[np.bool_]], box: Box) -> NDArray[np.bool_]:
    """Read a mask in a box slab by slab, padded to whole cubes."""
    shape = [side.stop - side.start for side in box]
    mask = np.zeros([n + -n % CUBE_SIDE for n in shape], bool)
    for slab in _slabs_of_box(box):
        z = slice(slab[0].start - box[0].start, slab[0].stop - box[0].start)
        mask[z, : shape[1], : shape[2]] = read_mask(slab)
    return mask


def _surface_voxels(objects: Objects, number: int) -> NDArray[np.int32]:
    """(n, 3) voxels of an object with one of their six neighbors outside the object or its box."""
    box = objects.box(number)
    voxels = []
    for slab in _slabs_of_box(box):
        below = max(slab[0].start - 1, box[0].start)
        above = min(slab[0].stop + 1, box[0].stop)
        inside = objects.volume[slice(below, above), slab[1], slab[2]] == number
        core = inside.copy()
        for axis in range(3):
            front, back = [slice(None)] * 3, [slice(None)] * 3
            front[axis], back[axis] = slice(None, -1), slice(1, None)
            core[tuple(front)] &= inside[tuple(back)]
            core[tuple(back)] &= inside[tuple(front)]
            for edge in (box[axis].start, box[axis].stop - 1):
                plane = [slice(None)] * 3
                first = below if axis == 0 else slab[axis].start
                last = above if axis == 0 else slab[axis].stop
                if first <= edge < last:
                    plane[axis] = slice(edge - first, edge - first + 1)
                    core[tuple(plane)] = False
        outer = (inside & ~core)[slab[0].start - below : slab[0].stop - below]
        start = np.array([side.start for side in slab], np.int32)
        voxels.append(_voxel_indices(outer).astype(np.int32) + start)
    return np.concatenate(voxels)


def _slabs_of_box(box: Box) -> Iterator[Box]:
    """Divide a box along its first axis into slabs of about `SLAB_VOXELS` voxels at most."""
    plane = math.prod(side.stop - side.start for side in box[1:])
    thickness = max(1, SLAB_VOXELS // plane)
    for z in range(box[0].start, box[0].stop, thickness):
        yield slice(z, min(z + thickness, box[0].stop)), box[1], box[2]


def _voxel_indices(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n, 3) indices of the voxels of a mask; like `np.argwhere`, but faster."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def _coarser(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Reduce a padded mask to one cell per cube, true if any voxel of the cube is."""
    # Read four voxels in a row at once, as one integer.
    rows = mask.view(np.uint32) != 0
    planes = rows[:, ::4] | rows[:, 1::4] | rows[:, 2::4] | rows[:, 3::4]
    return planes[::4] | planes[1::4] | planes[2::4] | planes[3::4]


def _padded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pad a mask to whole cubes."""
    pad = [(0, -n % CUBE_SIDE) for n in mask.shape]
    return np.pad(mask, pad) if any(after for _, after in pad) else mask


def _cubes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Reshape a padded mask so that axes 1, 3 and 5 run within a cube."""
    nz, ny, nx = (n // CUBE_SIDE for n in mask.shape)
    return mask.reshape(nz, CUBE_SIDE, ny, CUBE_SIDE, nx, CUBE_SIDE)
