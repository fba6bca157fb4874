"""The objects of labelled volumes: numbered, measured, and found again by their boxes."""

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

from cellmap_pipeline.scoring.slabs import Box, Volume, slab_boxes, slabs

# Numbers up to here are kept as they are, in two bytes.
SMALL = np.iinfo(np.uint16).max


@dataclass
class Objects:
    """Objects with their sizes and bounding boxes, all by number.

    Attributes
    ----------
    volume
        (z, y, x) numbers, unsigned; 0 is background.
    sizes
        Voxels; [0] is the background's.
    starts, stops
        (n + 1, 3) of the boxes, in voxels.
    names
        Id of each in the source. Those of components are their numbers.
    """

    volume: NDArray[Any]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    names: NDArray[np.int64]

    @classmethod
    def of(cls, volume: NDArray[Any], names: NDArray[np.int64] | None = None) -> Objects:
        """Measure the objects of a numbered volume."""
        found = find_objects(volume)
        sizes = np.zeros(len(found) + 1, np.int64)
        boxes = np.zeros((len(found) + 1, 3, 2), np.int64)
        numbers, counts = fastremap.unique(volume, return_counts=True)
        sizes[numbers] = counts
        for number, box in enumerate(found, 1):
            if box is not None:
                boxes[number] = [(part.start, part.stop) for part in box]
        if names is None:
            names = np.arange(len(sizes))
        return cls(volume, sizes, boxes[..., 0], boxes[..., 1], names)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers that occur, ascending."""
        return np.flatnonzero(self.sizes[1:]) + 1

    @property
    def highest(self) -> int:
        """The highest id, 0 where there is no object."""
        return int(self.names[self.numbers[-1]]) if self.numbers.size else 0

    def box(self, number: int) -> Box:
        """Bounding box of an object."""
        (z, y, x), (zz, yy, xx) = self.starts[number].tolist(), self.stops[number].tolist()
        return slice(z, zz), slice(y, yy), slice(x, xx)


def objects_of_ids(volume: Volume) -> Objects:
    """The objects of a volume of ids, as many as there are ids.

    Ids above the number of voxels, which the evaluator cannot score, are renumbered.

    Raises
    ------
    ValueError
        Ids are negative or not whole.
    """
    size = int(np.prod(volume.shape, dtype=np.int64))
    highest = 0
    for (slab,) in slabs(volume):
        if not _are_ids(slab):
            raise ValueError("true ids are whole numbers of 0 or more")
        highest = max(highest, int(slab.max(initial=0)))
    if highest <= min(SMALL, size):
        return Objects.of(_kept(volume))
    ids = _ids(volume)
    numbered = np.zeros(volume.shape, np.min_scalar_type(len(ids)))
    number_of = {id_: number for number, id_ in enumerate([0, *ids.tolist()])}
    for box in slab_boxes(volume):
        numbered[box] = fastremap.remap(_whole(volume[box]), number_of)
    names = ids.astype(np.int64) if highest <= size else np.arange(1, len(ids) + 1)
    return Objects.of(numbered, np.concatenate([np.zeros(1, np.int64), names]))


def count_ids(volume: Volume) -> int:
    """Number of ids but 0."""
    return len(_ids(volume))


class SlabComponents:
    """Connected components (26-neighbourhood, ids kept apart) of slabs that lie on each other.

    They are numbered in the order in which their first voxels come in memory, as cc3d does with
    the whole volume: within each slab at first, then those that touch are joined.
    """

    def __init__(self) -> None:
        self.counts = [0]
        self._joined = [np.zeros((2, 0), np.int64)]
        self._above: tuple[NDArray[Any], NDArray[np.int64]] | None = None

    def add(self, slab: NDArray[Any] | None) -> tuple[NDArray[Any], int]:
        """Components of the next slab, numbered from 1; None stands for an empty one."""
        if slab is None:
            self._above = None
            self.counts.append(self.counts[-1])
            return np.zeros(0, np.uint16), 0
        local, n = _components(slab)
        if self._above:
            self._joined.append(_touching(*self._above, slab[0], self._shifted(local[0])))
        self._above = slab[-1].copy(), self._shifted(local[-1])
        self.counts.append(self.counts[-1] + n)
        return local, n

    @property
    def at_least(self) -> int:
        """Components so far: each pair of them that touches joins two at most."""
        return self.counts[-1] - sum(pairs.shape[1] for pairs in self._joined)

    def numbers(self) -> NDArray[np.int64]:
        """Final numbers of the components of all slabs, one after the other."""
        n, pairs = self.counts[-1], np.concatenate(self._joined, axis=1)
        graph = coo_array((np.ones(pairs.shape[1], np.int8), pairs - 1), (n, n))
        _, group = connected_components(graph, directed=False)
        _, first, group = np.unique(group, return_index=True, return_inverse=True)
        number = np.empty(len(first), np.int64)
        number[np.argsort(first)] = np.arange(1, len(first) + 1)
        return number[group]

    def _shifted(self, plane: NDArray[Any]) -> NDArray[np.int64]:
        return np.where(plane == 0, 0, plane + np.int64(self.counts[-1]))


def label_components(volume: Volume, most: float | None = None) -> NDArray[Any] | None:
    """Number the connected components as `SlabComponents` does.

    Parameters
    ----------
    volume
        (z, y, x) of any type that has a 0.
    most
        Where it turns out that there are more components, the rest is left undone.

    Returns
    -------
    (z, y, x) numbers from 1 up, at least uint16; None where there are more than `most`.
    """
    boxes = slab_boxes(volume)
    if len(boxes) == 1:
        numbered, n = _components(volume[boxes[0]])
        return None if most is not None and n > most else numbered
    numbered = np.zeros(volume.shape, np.uint16)
    components = SlabComponents()
    for box in boxes:
        local, n = components.add(volume[box])
        if n > SMALL and numbered.dtype == np.uint16:
            numbered = numbered.astype(np.uint32)
        numbered[box] = local
        if most is not None and components.at_least > most:
            return None
    final = components.numbers()
    n = int(final.max(initial=0))
    if most is not None and n > most:
        return None
    result = numbered if n <= SMALL or numbered.itemsize > 2 else numbered.astype(np.uint32)
    for box, first, last in zip(boxes, components.counts, components.counts[1:], strict=False):
        lookup = np.concatenate([[0], final[first:last]]).astype(result.dtype)
        result[box] = lookup[numbered[box]]
    return result


def _components(slab: NDArray[Any]) -> tuple[NDArray[Any], int]:
    # cc3d stumbles over ids of 2**63 and more; as signed ones they are as different.
    signed = slab.view(np.int64) if slab.dtype == np.uint64 else slab
    return cc3d.connected_components(signed, return_N=True)


def _are_ids(values: NDArray[Any]) -> bool:
    if values.dtype.kind == "f":
        return bool(values.min() >= 0) and np.array_equal(values, np.trunc(values))
    return values.dtype.kind in "bu" or bool(values.min() >= 0)


def _kept(volume: Volume) -> NDArray[Any]:
    """A volume of small ids as an array of one or two bytes a voxel."""
    dtype = np.dtype(np.uint8 if volume.dtype.itemsize == 1 else np.uint16)
    if isinstance(volume, np.ndarray) and volume.dtype == dtype:
        return volume
    kept = np.zeros(volume.shape, dtype)
    for box in slab_boxes(volume):
        kept[box] = volume[box]
    return kept


def _ids(volume: Volume) -> NDArray[Any]:
    found = [fastremap.unique(_whole(slab)) for (slab,) in slabs(volume)]
    ids = np.unique(np.concatenate(found))
    return ids[ids != 0]


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.int64) if values.dtype.kind == "f" else values


def _touching(
    values: NDArray[Any], labels: NDArray[np.int64], below: NDArray[Any], top: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(2, n) pairs of components of two planes that lie on each other and share a value."""
    height, width = values.shape
    base = int(top.max(initial=0)) + 1
    found = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            a = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
            b = slice(max(0, dy), height - max(0, -dy)), slice(max(0, dx), width - max(0, -dx))
            same = (values[a] == below[b]) & (labels[a] != 0)
            found.append(fastremap.unique(labels[a][same] * base + top[b][same]))
    keys = np.unique(np.concatenate(found))
    return np.stack([keys // base, keys % base])
