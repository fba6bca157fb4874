"""Merging the fragments of an over-segmentation along their shared faces.

Fragments are the regions 1..n of a label volume, such as the basins of a watershed. Two fragments
are in contact where a voxel of one shares a face with a voxel of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from cellmap_pipeline.segmentation.region_graph import (
    least_of_merged,
    merge_lowest_first,
    merge_smallest_first,
    merge_widest_first,
)

# From an axis (0..2) to the values on the faces between neighbors along it.
Faces = Callable[[int], np.ndarray]
PRIOR_FACES = 10


@dataclass(frozen=True)
class Contacts:
    """Pairs of fragments that share faces; one entry per pair, in order of (first, second).

    Attributes
    ----------
    first, second
        int64, shape (m,), ids of the two fragments, first < second.
    area
        float64, shape (m,), number of shared faces; a pair of voxels at a distance counts as a
        fraction of a face (`long_range`).
    mean
        float64, shape (m,), mean over the shared faces.
    highest
        float64, shape (m,), largest value on a shared face.
    """

    first: np.ndarray
    second: np.ndarray
    area: np.ndarray
    mean: np.ndarray
    highest: np.ndarray

    @cached_property
    def boundary_probability(self) -> np.ndarray:
        """Probability that a contact is a boundary, float64 (m,).

        The mean over few faces is unreliable: of all faces between two cells, one may look open by
        chance. So each contact counts `PRIOR_FACES` more faces than it has, with probability 1/2.
        """
        return (self.area * self.mean + PRIOR_FACES / 2) / (self.area + PRIOR_FACES)


def find_contacts(
    labels: np.ndarray,
    faces: Faces,
    core: Sequence[int] | None = None,
    axes: Sequence[int] = (0, 1, 2),
) -> Contacts:
    """Find the contacts between the fragments of `labels`, with statistics of their faces.

    Parameters
    ----------
    labels
        Integers, shape (z, y, x); 0 is background and has no contacts.
    faces
        Returns, for an axis (0..2), the values on the faces between neighbors along it.
    core
        Number of voxels along each axis. Only the faces behind the first `core` voxels count, so
        that faces between overlapping blocks count once. None means all faces.
    axes
        Axes whose faces count.
    """
    shape = tuple(labels.shape if core is None else core)
    pairs, on_face = [np.zeros((2, 0), np.int64)], [np.zeros(0)]
    for axis in axes:
        n = min(shape[axis], labels.shape[axis] - 1)
        before = tuple(map(slice, (*shape[:axis], n, *shape[axis + 1 :])))
        after = (*before[:axis], slice(1, n + 1), *before[axis + 1 :])
        one, other = labels[before], labels[after]
        touch = (one != other) & (one != 0) & (other != 0)
        one, other = one[touch].astype(np.int64), other[touch].astype(np.int64)
        pairs.append(np.stack([np.minimum(one, other), np.maximum(one, other)]))
        on_face.append(faces(axis)[before][touch].astype(np.float64))
    first, second = np.concatenate(pairs, axis=1)
    values = np.concatenate(on_face)
    per_face = Contacts(first, second, np.ones(values.size), values, values)
    return relabel_contacts(per_face, np.arange(int(labels.max(initial=0)) + 1))


def combine_contacts(parts: Sequence[Contacts], size: int) -> Contacts:
    """Combine the contacts found in parts of a volume; `size` is the highest id + 1."""
    none = Contacts(*np.zeros((2, 0), np.int64), *np.zeros((3, 0)))
    all_parts = (none, *parts)
    arrays = [np.concatenate([getattr(p, f.name) for p in all_parts]) for f in fields(Contacts)]
    return relabel_contacts(Contacts(*arrays), np.arange(size))


def relabel_contacts(contacts: Contacts, lookup: np.ndarray) -> Contacts:
    """Replace each id by `lookup[id]`, and pool the contacts that then have the same pair."""
    first, second = lookup[contacts.first], lookup[contacts.second]
    outer = first != second
    first, second = first[outer], second[outer]
    key = np.minimum(first, second) * np.int64(lookup.size) + np.maximum(first, second)
    unique, index = np.unique(key, return_inverse=True)
    area = np.bincount(index, contacts.area[outer], unique.size)
    total = np.bincount(index, (contacts.area * contacts.mean)[outer], unique.size)
    highest = np.full(unique.size, -np.inf)
    np.maximum.at(highest, index, contacts.highest[outer])
    return Contacts(unique // lookup.size, unique % lookup.size, area, total / area, highest)


def group_ids(size: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return a lookup from each id to the least of all ids connected to it by pairs (one, other).

    Labels are propagated and shortcut until they are stable (Shiloach and Vishkin 1982,
    doi 10.1016/0196-6774(82)90008-6). For the few hundred pairs of a round of merging this takes
    microseconds; a sparse graph takes milliseconds to build.
    """
    least = np.arange(size, dtype=np.int64)
    while True:
        first, second = least[one], least[other]
        differ = first != second
        if not differ.any():
            return least
        low, high = np.minimum(first, second)[differ], np.maximum(first, second)[differ]
        np.minimum.at(least, high, low)
        while not np.array_equal(shorter := least[least], least):
            least = shorter


@dataclass(frozen=True)
class Dendrogram:
    """Successive merges of the regions 0..size - 1; what merges below a height is a cut.

    Attributes
    ----------
    size
        Highest id + 1.
    kept, gone
        int64 (k,), for each merge in order, the region that stands for both, and the other one.
    height
        (k,), height of each merge, ascending.
    """

    size: int
    kept: np.ndarray
    gone: np.ndarray
    height: np.ndarray

    def count(self, height: float) -> int:
        """Return the number of merges below `height`."""
        return int(np.searchsorted(self.height, height))

    def cut(self, height: float) -> np.ndarray:
        """Return for each id the least id of its region after all merges below `height`."""
        n = self.count(height)
        return least_of_merged(self.size, self.kept[:n], self.gone[:n])


def mean_dendrogram(contacts: Contacts, size: int) -> Dendrogram:
    """Merge regions in order of the boundary probability of their contact, lowest first.

    Means are pooled over the faces as regions grow (mean affinity agglomeration: Lee et al. 2017,
    arXiv:1706.00120). A pooled contact can have a lower probability than those that merged before
    it; the height of a merge is the highest probability up to then. So a cut is what merging gives
    as long as the lowest probability is below the threshold.

    Parameters
    ----------
    contacts
        Contacts whose mean is the probability of a boundary.
    size
        Highest id + 1.
    """
    kept, gone, probability = merge_lowest_first(
        contacts.first,
        contacts.second,
        contacts.area,
        contacts.area * contacts.mean,
        size,
        float(PRIOR_FACES),
    )
    return Dendrogram(size, kept, gone, np.maximum.accumulate(probability))


def size_dendrogram(contacts: Contacts, sizes: np.ndarray) -> Dendrogram:
    """Merge the smallest region into the neighbor behind its weakest boundary, again and again.

    Regions without neighbors stay as they are.

    Parameters
    ----------
    contacts
        Contacts whose mean is the probability of a boundary.
    sizes
        Shape (highest id + 1,), voxels of each id.

    Returns
    -------
    The height of a merge is the number of voxels of the smaller region: the cut at n merges all
    regions of less than n voxels.
    """
    merges = merge_smallest_first(
        contacts.first,
        contacts.second,
        contacts.area,
        contacts.area * contacts.mean,
        sizes.astype(np.int64),
        float(PRIOR_FACES),
    )
    return Dendrogram(sizes.size, *merges)


def merge_wide_necks(contacts: Contacts, radius: np.ndarray, neck: float) -> np.ndarray:
    """Merge fragments unless the neck between them is narrow compared with the thinner one.

    Parameters
    ----------
    contacts
        Contacts whose highest value is the radius of the neck between the fragments.
    radius
        float, shape (highest id + 1,), each fragment's largest distance from the outside.
    neck
        Two regions stay separate if the neck's radius is below this fraction of the smaller of
        their radii. Wide necks are merged first.

    Returns
    -------
    int64, shape of `radius`: for each id the least id of its region.
    """
    order = np.argsort(-contacts.highest, kind="stable")
    return merge_widest_first(
        contacts.first[order],
        contacts.second[order],
        contacts.highest[order],
        radius.astype(np.float64),
        neck,
    )
