"""Merging the fragments of an over-segmentation along their shared faces.

Fragments are the regions 1..n of a label volume, such as the basins of a watershed. Two fragments
are in contact where a voxel of one shares a face with a voxel of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

# From an axis (0..2) to the values on the faces between neighbors along it.
Faces = Callable[[int], np.ndarray]
THRESHOLD_STEP = 0.025
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


def _weakest_boundaries(contacts: Contacts, size: int) -> np.ndarray:
    """Return each fragment's contact of lowest boundary probability (an index; -1 for none)."""
    ends = np.concatenate([contacts.first, contacts.second])
    index = np.tile(np.arange(contacts.first.size), 2)
    order = np.lexsort((index, contacts.boundary_probability[index], ends))[::-1]
    weakest = np.full(size, -1, np.int64)
    # Of repeated ends the last assignment, with the lowest probability, stays.
    weakest[ends[order]] = index[order]
    return weakest


def merge_by_mean(contacts: Contacts, size: int, threshold: float) -> np.ndarray:
    """Merge fragments whose contacts have a boundary probability below `threshold`.

    Contacts of the lowest probability merge first, and means are pooled over the faces as regions
    grow (mean affinity agglomeration: Lee et al. 2017, arXiv:1706.00120). The order is only kept in
    steps of `THRESHOLD_STEP`, so that whole arrays are processed at a time; within a step, each
    region merges with its best neighbor.

    Parameters
    ----------
    contacts
        Contacts whose mean is the probability of a boundary.
    size
        Highest id + 1.

    Returns
    -------
    int64, shape (size,): for each id the least id of its region.
    """
    (lookup,) = merge_at_thresholds(contacts, size, [threshold])
    return lookup


def merge_at_thresholds(
    contacts: Contacts, size: int, thresholds: Sequence[float]
) -> Iterator[np.ndarray]:
    """Yield what `merge_by_mean` returns for each threshold, in ascending order.

    Steps that end below several thresholds are taken once.
    """
    lookup = np.arange(size, dtype=np.int64)
    for threshold in thresholds:
        while (step_end := _next_step_end(contacts)) <= threshold:
            lookup, contacts = _merge_step(lookup, contacts, step_end)
        final_lookup, remaining = lookup, contacts
        while remaining.boundary_probability.min(initial=np.inf) < threshold:
            step_end = min(threshold, _next_step_end(remaining))
            final_lookup, remaining = _merge_step(final_lookup, remaining, step_end)
        yield final_lookup


def _next_step_end(contacts: Contacts) -> float:
    """Return the end of the step that contains the weakest boundary; infinity for no contacts."""
    weakest = float(contacts.boundary_probability.min(initial=np.inf))
    if math.isinf(weakest):
        return math.inf
    return THRESHOLD_STEP * (math.floor(round(weakest / THRESHOLD_STEP, 9)) + 1)


def _merge_step(
    lookup: np.ndarray, contacts: Contacts, threshold: float
) -> tuple[np.ndarray, Contacts]:
    """Merge each region with its best neighbor if their boundary probability is low enough."""
    weakest = _weakest_boundaries(contacts, lookup.size)
    weakest = np.unique(weakest[weakest >= 0])
    weakest = weakest[contacts.boundary_probability[weakest] < threshold]
    groups = group_ids(lookup.size, contacts.first[weakest], contacts.second[weakest])
    return groups[lookup], relabel_contacts(contacts, groups)


def merge_small(contacts: Contacts, sizes: np.ndarray, min_voxels: float) -> np.ndarray:
    """Merge small fragments into the neighbor behind their weakest boundary.

    Parameters
    ----------
    contacts
        Contacts whose mean is the probability of a boundary.
    sizes
        Shape (highest id + 1,), voxels of each id; that of 0 is ignored.
    min_voxels
        Smaller fragments merge.

    Returns
    -------
    int64, shape of `sizes`: for each id the least id of its region. Small fragments without
    neighbors stay as they are.
    """
    lookup = np.arange(sizes.size, dtype=np.int64)
    sizes = sizes.astype(np.float64)
    while True:
        is_small = (sizes < min_voxels) & (sizes > 0)
        if not is_small.any():
            return lookup
        weakest = _weakest_boundaries(contacts, sizes.size)
        chosen = weakest[(weakest >= 0) & is_small]
        if not chosen.size:
            return lookup
        groups = group_ids(sizes.size, contacts.first[chosen], contacts.second[chosen])
        lookup = groups[lookup]
        sizes = np.bincount(groups, sizes, sizes.size)
        contacts = relabel_contacts(contacts, groups)


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
    parent = list(range(radius.size))
    radii = radius.astype(np.float64).tolist()

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    order = np.argsort(-contacts.highest, kind="stable")
    for a, b, width in zip(
        contacts.first[order].tolist(),
        contacts.second[order].tolist(),
        contacts.highest[order].tolist(),
        strict=True,
    ):
        a, b = sorted((root(a), root(b)))
        if a != b and width >= neck * min(radii[a], radii[b]):
            parent[b] = a
            radii[a] = max(radii[a], radii[b])
    return np.array([root(i) for i in range(radius.size)], dtype=np.int64)
