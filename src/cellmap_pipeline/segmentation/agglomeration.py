"""Merging the fragments of an over-segmentation along their shared faces.

Fragments are the regions 1..n of a label volume, as a watershed leaves them. Two fragments are
in contact where two voxels with a common face belong to one each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

Faces = Callable[[int], np.ndarray]
LEVEL = 0.025  # steps in which the merging threshold rises
DOUBT = 10  # faces that each contact counts for more than it has, half of them boundary


@dataclass(frozen=True)
class Contacts:
    """Pairs of fragments that share faces; one entry per pair, in order of (first, second).

    Attributes
    ----------
    first, second
        int64, shape (m,), ids of the two fragments, first < second.
    area
        float64, shape (m,), number of shared faces.
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
    def likely(self) -> np.ndarray:
        """How likely a boundary is, float64 (m,): of many faces the mean, of a few about a half.

        Few faces tell little: by chance one of all those between two cells looks open. So each
        contact counts as if it had `DOUBT` faces more, half of them boundary.
        """
        return (self.area * self.mean + DOUBT / 2) / (self.area + DOUBT)


def contacts(
    labels: np.ndarray,
    faces: Faces,
    core: Sequence[int] | None = None,
    axes: Sequence[int] = (0, 1, 2),
) -> Contacts:
    """Contacts between the fragments of `labels`, with what lies on the faces.

    Parameters
    ----------
    labels
        Integers, shape (z, y, x); 0 is background and has no contacts.
    faces
        Gives for an axis (0..2) the values on the faces between neighbours along it.
    core
        Voxels; only faces after a voxel in the first so many along each axis count, so that of
        blocks which reach over into the next one each face counts once. None: all.
    axes
        Along which to look.
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
    single = Contacts(first, second, np.ones(values.size), values, values)
    return pooled(single, np.arange(int(labels.max(initial=0)) + 1))


def together(parts: Sequence[Contacts], size: int) -> Contacts:
    """Contacts that were found in parts of a volume; `size` is the highest id + 1."""
    none = Contacts(*np.zeros((2, 0), np.int64), *np.zeros((3, 0)))
    all_parts = (none, *parts)
    arrays = [np.concatenate([getattr(p, f.name) for p in all_parts]) for f in fields(Contacts)]
    return pooled(Contacts(*arrays), np.arange(size))


def pooled(links: Contacts, lookup: np.ndarray) -> Contacts:
    """The contacts between what the fragments have become: `lookup` gives each its new id."""
    first, second = lookup[links.first], lookup[links.second]
    outer = first != second
    first, second = first[outer], second[outer]
    key = np.minimum(first, second) * np.int64(lookup.size) + np.maximum(first, second)
    unique, index = np.unique(key, return_inverse=True)
    area = np.bincount(index, links.area[outer], unique.size)
    total = np.bincount(index, (links.area * links.mean)[outer], unique.size)
    highest = np.full(unique.size, -np.inf)
    np.maximum.at(highest, index, links.highest[outer])
    return Contacts(unique // lookup.size, unique % lookup.size, area, total / area, highest)


def groups(size: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Lookup that gives all ids joined by the pairs (one, other) the least id among them.

    Labels are propagated and shortcut until they are stable (Shiloach and Vishkin 1982,
    doi 10.1016/0196-6774(82)90008-6). For the few hundred pairs of a round of merging this takes
    microseconds; a sparse graph takes milliseconds to build.
    """
    least = np.arange(size, dtype=np.int64)
    while True:
        first, second = least[one], least[other]
        apart = first != second
        if not apart.any():
            return least
        low, high = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
        np.minimum.at(least, high, low)
        while not np.array_equal(shorter := least[least], least):
            least = shorter


def _best_contact(links: Contacts, size: int) -> np.ndarray:
    """Each fragment's contact that is least a boundary (index into `links`; -1 without any)."""
    ends = np.concatenate([links.first, links.second])
    index = np.tile(np.arange(links.first.size), 2)
    order = np.lexsort((index, links.likely[index], ends))[::-1]
    best = np.full(size, -1, np.int64)
    best[ends[order]] = index[order]  # of repeated ends the last, so the least likely, stays
    return best


def merge_by_mean(links: Contacts, size: int, threshold: float) -> np.ndarray:
    """Merge fragments between which a boundary is less `likely` than `threshold`.

    The least likely ones merge first, and means are pooled over the faces as regions grow (mean
    affinity agglomeration: Lee et al. 2017, arXiv:1706.00120). So that whole arrays are handled
    at a time, the order is kept in steps of `LEVEL` only; within a step, each region merges with
    its best neighbour.

    Parameters
    ----------
    links
        Contacts, with the probability of a boundary as their mean.
    size
        Highest id + 1.

    Returns
    -------
    int64, shape (size,): for each id the least id of its region.
    """
    (lookup,) = merges_by_mean(links, size, [threshold])
    return lookup


def merges_by_mean(links: Contacts, size: int, thresholds: Sequence[float]) -> Iterator[np.ndarray]:
    """Yield what `merge_by_mean` returns for each of some thresholds, in ascending order.

    Steps that end below several thresholds are taken once.
    """
    lookup = np.arange(size, dtype=np.int64)
    for threshold in thresholds:
        while (level := _next_level(links)) <= threshold:
            lookup, links = _merge_step(lookup, links, level)
        own_lookup, own_links = lookup, links
        while own_links.likely.min(initial=np.inf) < threshold:
            level = min(threshold, _next_level(own_links))
            own_lookup, own_links = _merge_step(own_lookup, own_links, level)
        yield own_lookup


def _next_level(links: Contacts) -> float:
    """The end of the step in which the weakest contact lies; infinite without contacts."""
    weakest = float(links.likely.min(initial=np.inf))
    if math.isinf(weakest):
        return math.inf
    return LEVEL * (math.floor(round(weakest / LEVEL, 9)) + 1)


def _merge_step(lookup: np.ndarray, links: Contacts, level: float) -> tuple[np.ndarray, Contacts]:
    """Merge each region with its best neighbour where a boundary is less likely than `level`."""
    best = _best_contact(links, lookup.size)
    best = np.unique(best[best >= 0])
    best = best[links.likely[best] < level]
    joined = groups(lookup.size, links.first[best], links.second[best])
    return joined[lookup], pooled(links, joined)


def merge_small(links: Contacts, sizes: np.ndarray, smallest: float) -> np.ndarray:
    """Merge fragments smaller than `smallest` into the neighbour behind the weakest boundary.

    Parameters
    ----------
    sizes
        Shape (highest id + 1,), voxels of each id; that of 0 is ignored.

    Returns
    -------
    int64, shape of `sizes`: for each id the least id of its region. Small fragments without
    neighbours stay as they are.
    """
    lookup = np.arange(sizes.size, dtype=np.int64)
    sizes = sizes.astype(np.float64)
    while True:
        is_small = (sizes < smallest) & (sizes > 0)
        if not is_small.any():
            return lookup
        best = _best_contact(links, sizes.size)
        chosen = best[(best >= 0) & is_small]
        if not chosen.size:
            return lookup
        joined = groups(sizes.size, links.first[chosen], links.second[chosen])
        lookup = joined[lookup]
        sizes = np.bincount(joined, sizes, sizes.size)
        links = pooled(links, joined)


def merge_wide_necks(links: Contacts, radius: np.ndarray, neck: float) -> np.ndarray:
    """Merge fragments unless the neck between them is narrow against the thinner of the two.

    Parameters
    ----------
    links
        Contacts whose highest value is the radius of the neck between the fragments.
    radius
        float, shape (highest id + 1,), each fragment's largest distance from the outside.
    neck
        Two regions stay apart where the neck's radius is below this part of the smaller of their
        radii. Wide necks are merged first.

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

    order = np.argsort(-links.highest, kind="stable")
    for a, b, width in zip(
        links.first[order].tolist(),
        links.second[order].tolist(),
        links.highest[order].tolist(),
        strict=True,
    ):
        a, b = sorted((root(a), root(b)))
        if a != b and width >= neck * min(radii[a], radii[b]):
            parent[b] = a
            radii[a] = max(radii[a], radii[b])
    return np.array([root(i) for i in range(radius.size)], dtype=np.int64)
