"""Objects of labeled volumes, with their sizes and bounding boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cc3d
import fastremap
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellmap_pipeline.scoring.slabs import ArrayLike, Box, slab_boxes, slabs

MAX_UINT16 = np.iinfo(np.uint16).max


@dataclass
class Objects:
    """Numbered objects with their sizes and bounding boxes; all arrays are indexed by number.

    Attributes
    ----------
    volume
        (z, y, x) object numbers, unsigned; 0 is background.
    sizes
        Number of voxels of each object; [0] is the background's.
    starts, stops
        (n + 1, 3) corners of the bounding boxes, in voxels.
    ids
        Id of each object in the source. The ids of components are their numbers.
    """

    volume: NDArray[Any]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    ids: NDArray[np.int64]

    @classmethod
    def from_numbers(cls, volume: NDArray[Any], ids: NDArray[np.int64] | None = None) -> Objects:
        """Measure the objects of a volume of object numbers."""
        found = find_objects(volume)
        sizes = np.zeros(len(found) + 1, np.int64)
        boxes = np.zeros((len(found) + 1, 3, 2), np.int64)
        numbers, counts = fastremap.unique(volume, return_counts=True)
        sizes[numbers] = counts
        for number, box in enumerate(found, 1):
            if box is not None:
                boxes[number] = [(side.start, side.stop) for side in box]
        if ids is None:
            ids = np.arange(len(sizes))
        return cls(volume, sizes, boxes[..., 0], boxes[..., 1], ids)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Numbers that occur, ascending."""
        return np.flatnonzero(self.sizes[1:]) + 1

    @property
    def highest(self) -> int:
        """Highest id, or 0 if there is no object."""
        return int(self.ids[self.numbers[-1]]) if self.numbers.size else 0

    def box(self, number: int) -> Box:
        """Bounding box of an object."""
        (z0, y0, x0), (z1, y1, x1) = self.starts[number].tolist(), self.stops[number].tolist()
        return slice(z0, z1), slice(y0, y1), slice(x0, x1)


def objects_from_ids(volume: ArrayLike) -> Objects:
    """Measure the objects of a volume of ids, one object per id.

    Ids above the number of voxels, which the evaluator cannot score, are renumbered.

    Raises
    ------
    ValueError
        Ids are negative or fractional.
    """
    size = int(np.prod(volume.shape, dtype=np.int64))
    highest = 0
    for (slab,) in slabs(volume):
        if not _are_ids(slab):
            raise ValueError("true ids are whole numbers of 0 or more")
        highest = max(highest, int(slab.max(initial=0)))
    if highest <= min(MAX_UINT16, size):
        return Objects.from_numbers(_as_small_dtype(volume))
    unique_ids = _unique_ids(volume)
    numbered = np.zeros(volume.shape, np.min_scalar_type(len(unique_ids)))
    number_of = {id_: number for number, id_ in enumerate([0, *unique_ids.tolist()])}
    for box in slab_boxes(volume):
        numbered[box] = fastremap.remap(_as_integers(volume[box]), number_of)
    n = len(unique_ids)
    ids = unique_ids.astype(np.int64) if highest <= size else np.arange(1, n + 1)
    return Objects.from_numbers(numbered, np.concatenate([np.zeros(1, np.int64), ids]))


def count_ids(volume: ArrayLike) -> int:
    """Count the ids except 0."""
    return len(_unique_ids(volume))


class SlabComponents:
    """Connected components (26-neighborhood, ids kept apart) of a stack of slabs.

    They are numbered in the memory order of their first voxels, as cc3d does for the whole volume:
    first within each slab, then components that touch across slabs are merged.

    Attributes
    ----------
    counts
        Cumulative number of components before each slab, before merging.
    """

    def __init__(self) -> None:
        self.counts = [0]
        self._touching = [np.zeros((2, 0), np.int64)]
        self._last_plane: tuple[NDArray[Any], NDArray[np.int64]] | None = None

    def add(self, slab: NDArray[Any] | None) -> tuple[NDArray[Any], int]:
        """Label the next slab with numbers from 1; None is an empty slab."""
        if slab is None:
            self._last_plane = None
            self.counts.append(self.counts[-1])
            return np.zeros(0, np.uint16), 0
        local, n = _components(slab)
        if self._last_plane:
            pairs = _touching_pairs(*self._last_plane, slab[0], self._shifted(local[0]))
            self._touching.append(pairs)
        self._last_plane = slab[-1].copy(), self._shifted(local[-1])
        self.counts.append(self.counts[-1] + n)
        return local, n

    @property
    def min_count(self) -> int:
        """Lower bound of the components so far: each touching pair merges at most two."""
        return self.counts[-1] - sum(pairs.shape[1] for pairs in self._touching)

    def numbers(self) -> NDArray[np.int64]:
        """Final numbers of the components of all slabs, concatenated."""
        n, pairs = self.counts[-1], np.concatenate(self._touching, axis=1)
        graph = coo_array((np.ones(pairs.shape[1], np.int8), pairs - 1), (n, n))
        _, group = connected_components(graph, directed=False)
        _, first, group = np.unique(group, return_index=True, return_inverse=True)
        number = np.empty(len(first), np.int64)
        number[np.argsort(first)] = np.arange(1, len(first) + 1)
        return number[group]

    def _shifted(self, plane: NDArray[Any]) -> NDArray[np.int64]:
        return np.where(plane == 0, 0, plane + np.int64(self.counts[-1]))


def label_components(volume: ArrayLike, max_components: float | None = None) -> NDArray[Any] | None:
    """Label connected components, numbered as by `SlabComponents`.

    Parameters
    ----------
    volume
        (z, y, x) of any type; 0 is background.
    max_components
        Labeling stops as soon as there are certainly more components.

    Returns
    -------
    (z, y, x) numbers from 1, at least uint16; None if there are more than `max_components`.
    """
    boxes = slab_boxes(volume)
    if len(boxes) == 1:
        numbered, n = _components(volume[boxes[0]])
        return None if max_components is not None and n > max_components else numbered
    numbered = np.zeros(volume.shape, np.uint16)
    components = SlabComponents()
    for box in boxes:
        local, n = components.add(volume[box])
        if n > MAX_UINT16 and numbered.dtype == np.uint16:
            numbered = numbered.astype(np.uint32)
        numbered[box] = local
        if max_components is not None and components.min_count > max_components:
            return None
    final = components.numbers()
    n = int(final.max(initial=0))
    if max_components is not None and n > max_components:
        return None
    result = numbered if n <= MAX_UINT16 or numbered.itemsize > 2 else numbered.astype(np.uint32)
    for box, first, last in zip(boxes, components.counts, components.counts[1:], strict=False):
        lookup = np.concatenate([[0], final[first:last]]).astype(result.dtype)
        result[box] = lookup[numbered[box]]
    return result


def _components(slab: NDArray[Any]) -> tuple[NDArray[Any], int]:
    # cc3d fails for ids of 2**63 and more, and for some small arrays of bool; reinterpreted, ids
    # stay distinct.
    if slab.dtype == np.uint64:
        slab = slab.view(np.int64)
    elif slab.dtype == bool:
        slab = slab.view(np.uint8)
    return cc3d.connected_components(slab, return_N=True)


def _are_ids(values: NDArray[Any]) -> bool:
    if values.dtype.kind == "f":
        return bool(values.min() >= 0) and np.array_equal(values, np.trunc(values))
    return values.dtype.kind in "bu" or bool(values.min() >= 0)


def _as_small_dtype(volume: ArrayLike) -> NDArray[Any]:
    """Read a volume of ids up to 65,535 as uint8 or uint16."""
    dtype = np.dtype(np.uint8 if volume.dtype.itemsize == 1 else np.uint16)
    if isinstance(volume, np.ndarray) and volume.dtype == dtype:
        return volume
    result = np.zeros(volume.shape, dtype)
    for box in slab_boxes(volume):
        result[box] = volume[box]
    return result


def _unique_ids(volume: ArrayLike) -> NDArray[Any]:
    slab_ids = [fastremap.unique(_as_integers(slab)) for (slab,) in slabs(volume)]
    ids = np.unique(np.concatenate(slab_ids))
    return ids[ids != 0]


def _as_integers(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.int64) if values.dtype.kind == "f" else values


def _touching_pairs(
    values: NDArray[Any],
    components: NDArray[np.int64],
    next_values: NDArray[Any],
    next_components: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(2, n) pairs of components of two adjacent planes that touch and share a value."""
    height, width = values.shape
    base = int(next_components.max(initial=0)) + 1
    keys = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            a = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
            b = slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx))
            same = (values[a] == next_values[b]) & (components[a] != 0)
            pairs = components[a][same] * base + next_components[b][same]
            keys.append(fastremap.unique(pairs))
    unique_keys = np.unique(np.concatenate(keys))
    return np.stack([unique_keys // base, unique_keys % base])
