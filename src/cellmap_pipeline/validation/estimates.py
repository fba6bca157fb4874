"""Which settings of an instance method look best, judged without distances.

The official score of a segmentation needs the distance of every pair of objects. Pieces of objects
and their overlaps with the truth are enough to count what joining them would do, so thousands of
settings can be compared before a few are scored in full.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.scoring.instances import instance_ratio_limit
from cellmap_pipeline.segmentation.agglomeration import Contacts, merges_by_mean, pooled
from cellmap_pipeline.segmentation.fragments import Fragments
from cellmap_pipeline.segmentation.methods import Settings
from cellmap_pipeline.segmentation.segment import join, join_small, voxels


@dataclass(frozen=True)
class Overlap:
    """The voxels that each piece shares with each true object, background (0) included.

    Attributes
    ----------
    piece, true
        int64 (m,), ids; true objects are numbered 1..n.
    shared
        int64 (m,), voxels.
    true_sizes
        int64 (n + 1,).
    worst
        Normalised distance of an object without a partner.
    """

    piece: NDArray[np.int64]
    true: NDArray[np.int64]
    shared: NDArray[np.int64]
    true_sizes: NDArray[np.int64]
    worst: float

    @classmethod
    def of(
        cls,
        pieces: NDArray[Any],
        truth: NDArray[Any],
        known: NDArray[np.bool_] | None,
        voxel_size: Sequence[float],
    ) -> Overlap:
        """Overlap of two volumes (z, y, x) where the truth is known."""
        cap = min(v * n / 2 for v, n in zip(voxel_size, truth.shape, strict=True))
        worst = 1.01 ** (-cap / math.hypot(*voxel_size))
        if known is not None:
            pieces, truth = pieces[known], truth[known]
        truth, _ = fastremap.renumber(truth.ravel(), in_place=False)
        base = int(truth.max(initial=0)) + 1
        keys = pieces.ravel().astype(np.int64) * base + truth
        pairs, shared = fastremap.unique(keys, return_counts=True)
        true_sizes = np.bincount(truth, minlength=base)
        return cls(pairs // base, pairs % base, shared.astype(np.int64), true_sizes, worst)


@dataclass(frozen=True)
class Estimate:
    """What counts towards the score, of one crop or of several together."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    nearness: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.nearness + other.nearness,
        )

    @property
    def score(self) -> float:
        """Like the official combined score."""
        objects = self.tp + self.fp + self.fn
        if not objects:
            return 1.0
        f1 = 2 * self.tp / (objects + self.tp)
        return math.sqrt(f1 * self.nearness / objects)


class Judge:
    """Judges the objects that `lookup` makes of pieces, whatever the smallest size asked for.

    Objects are matched greedily by IoU, and a match counts as near as its IoU is high: from the
    distance of an object without a partner at 0 to no distance at 1.

    Parameters
    ----------
    overlap
        Of the pieces.
    lookup
        int64 (pieces + 1,), the object of each piece.
    """

    def __init__(self, overlap: Overlap, lookup: NDArray[np.int64]) -> None:
        self._n_true, self._worst = overlap.true_sizes.size - 1, overlap.worst
        made = lookup[overlap.piece]
        sizes = np.bincount(made, overlap.shared, lookup.size)
        sizes[0] = 0
        self._sizes = np.sort(sizes[sizes > 0])
        both = (overlap.true != 0) & (sizes[made] > 0)
        base = self._n_true + 1
        keys, index = np.unique(made[both] * base + overlap.true[both], return_inverse=True)
        made, true = keys // base, keys % base
        shared = np.bincount(index, overlap.shared[both], keys.size)
        iou = shared / (sizes[made] + overlap.true_sizes[true] - shared)
        order = np.argsort(-iou, kind="stable")
        # Best first: object, true object, IoU, size of the object.
        self._pairs = list(
            zip(
                made[order].tolist(), true[order].tolist(), iou[order].tolist(),
                sizes[made[order]].tolist(), strict=True,
            )
        )  # fmt: skip
        self._estimates: dict[int, Estimate] = {}

    def estimate(self, smallest: int) -> Estimate:
        """The estimate for the objects of at least `smallest` voxels."""
        n_made = self._sizes.size - int(np.searchsorted(self._sizes, smallest))
        if n_made not in self._estimates:
            self._estimates[n_made] = self._estimate(n_made, smallest)
        return self._estimates[n_made]

    def _estimate(self, n_made: int, smallest: int) -> Estimate:
        n_true, worst = self._n_true, self._worst
        if n_true and n_made / n_true > instance_ratio_limit(n_true):
            return Estimate(fn=n_true)
        taken_made, taken_true, near = set[int](), set[int](), []
        for made, true, iou, size in self._pairs:
            if size >= smallest and made not in taken_made and true not in taken_true:
                taken_made.add(made)
                taken_true.add(true)
                near.append(worst + (1 - worst) * iou)
        tp, fp, fn = len(near), n_made - len(near), n_true - len(near)
        return Estimate(tp, fp, fn, sum(near) + worst * (fp + fn))


def estimates(
    pieces: Fragments,
    overlap: Overlap,
    settings: Settings,
    grid: Mapping[str, Sequence[Any]],
    voxel_size: Sequence[float],
) -> list[tuple[Settings, Estimate]]:
    """Estimates for all combinations in `grid` of the settings that put pieces together."""
    found = []
    for part, lookup, links in _joined(pieces, settings, grid):
        plain = judge = Judge(overlap, lookup)
        final = lookup
        for small, nm3 in itertools.product(grid.get("merge_small", [None]), grid["min_size_nm3"]):
            chosen = part | {"min_size_nm3": nm3}
            smallest = voxels(nm3, voxel_size)
            if small is not None:
                chosen["merge_small"] = small
            if small:
                assert links is not None
                joined = join_small(pieces, lookup, links, smallest)
                if not np.array_equal(joined, final):
                    final, judge = joined, Judge(overlap, joined)
            found.append((chosen, (judge if small else plain).estimate(smallest)))
    return found


def _joined(
    pieces: Fragments, settings: Settings, grid: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[Settings, NDArray[np.int64], Contacts | None]]:
    """The objects for each value of the setting that merges pieces, with their contacts.

    Only `merge_small` takes the contacts: without that setting there are none.
    """
    if "merge_threshold" in grid:
        assert pieces.links is not None
        values = sorted(grid["merge_threshold"])
        lookups = merges_by_mean(pieces.links, pieces.sizes.size, values)
        for value, lookup in zip(values, lookups, strict=True):
            yield settings | {"merge_threshold": value}, lookup, pooled(pieces.links, lookup)
    elif "neck" in grid:
        for value in grid["neck"]:
            yield settings | {"neck": value}, join(pieces, settings | {"neck": value}), None
    else:
        yield settings, join(pieces, settings), None
