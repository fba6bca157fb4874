"""Fast estimates of instance scores, computed from overlaps instead of distances.

The official score of a segmentation needs the distance of every pair of objects. The overlaps of
fragments with the ground truth are enough to count the matches after merging them, so thousands of
settings can be compared before a few are scored in full.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.run.compiled import compiled
from cellmap_pipeline.scoring.matching import instance_ratio_limit
from cellmap_pipeline.scoring.rules.base import Counts, MatchEstimate
from cellmap_pipeline.segmentation.fragments import Fragments
from cellmap_pipeline.segmentation.methods import SearchSpace, Settings
from cellmap_pipeline.segmentation.segment import (
    merge_fragments,
    size_in_voxels,
    small_object_dendrogram,
)

# Settings that assemble fragments, the last one varying fastest. Holes make no difference to an
# estimate.
ESTIMATED_SETTINGS = ("merge_threshold", "neck", "merge_small", "min_size_nm3")


@dataclass(frozen=True)
class Overlap:
    """Number of voxels that fragments share with true objects, background (0) included.

    Attributes
    ----------
    fragment, true
        int64 (m,), ids; true objects are numbered 1..n.
    shared
        int64 (m,), voxels.
    true_sizes
        int64 (n + 1,), voxels of each true object.
    """

    fragment: NDArray[np.int64]
    true: NDArray[np.int64]
    shared: NDArray[np.int64]
    true_sizes: NDArray[np.int64]

    @classmethod
    def of(
        cls, fragments: NDArray[Any], truth: NDArray[Any], known: NDArray[np.bool_] | None
    ) -> Overlap:
        """Count the overlap of two volumes (z, y, x) where the ground truth is known."""
        if known is not None:
            fragments, truth = fragments[known], truth[known]
        truth, _ = fastremap.renumber(truth.ravel(), in_place=False)
        base = int(truth.max(initial=0)) + 1
        keys = fragments.ravel().astype(np.int64) * base + truth
        pairs, shared = fastremap.unique(keys, return_counts=True)
        true_sizes = np.bincount(truth, minlength=base)
        return cls(pairs // base, pairs % base, shared.astype(np.int64), true_sizes)

    def merged(self, lookup: NDArray[np.int64]) -> Overlap:
        """Return the overlap of the objects `lookup[id]` that fragments, or objects, merge to."""
        base = self.true_sizes.size
        keys, index = np.unique(lookup[self.fragment] * base + self.true, return_inverse=True)
        shared = np.bincount(index, self.shared, keys.size).astype(np.int64)
        return Overlap(keys // base, keys % base, shared, self.true_sizes)


class MatchEstimator:
    """Estimates the counts of objects.

    Objects are matched greedily by IoU. The score of a match is interpolated by its IoU, from that
    of the worst match at 0 to a perfect one at 1.

    Parameters
    ----------
    overlap
        Overlap of the objects with the ground truth.
    scores
        How much objects count.
    """

    def __init__(self, overlap: Overlap, scores: MatchEstimate) -> None:
        self._n_true, self._scores = overlap.true_sizes.size - 1, scores
        ids, made = np.unique(overlap.fragment, return_inverse=True)
        sizes = np.bincount(made, overlap.shared, ids.size)
        self._sizes = np.sort(sizes[ids != 0])
        both = (overlap.true != 0) & (overlap.fragment != 0)
        made, true, shared = made[both], overlap.true[both], overlap.shared[both]
        iou = shared / (sizes[made] + overlap.true_sizes[true] - shared)
        order = np.argsort(-iou, kind="stable")
        order = order[iou[order] > scores.min_iou]
        # Best first: object, true object, IoU, and size of the object.
        self._pairs = made[order], true[order], iou[order], sizes[made[order]]
        self._estimates: dict[int, Counts] = {}

    def estimate(self, min_voxels: int) -> Counts:
        """Estimate the counts of the objects of at least `min_voxels`."""
        n_made = self._sizes.size - int(np.searchsorted(self._sizes, min_voxels))
        if n_made not in self._estimates:
            self._estimates[n_made] = self._estimate(n_made, min_voxels)
        return self._estimates[n_made]

    def _estimate(self, n_made: int, min_voxels: int) -> Counts:
        n_true, worst = self._n_true, self._scores.worst_match
        if n_true and n_made / n_true > instance_ratio_limit(n_true):
            return Counts(fp=n_made if self._scores.counts_skipped_crops else 0, fn=n_true)
        tp, iou_sum = _match_greedily(*self._pairs, min_voxels, self._sizes.size + 1, n_true + 1)
        fp, fn = n_made - tp, n_true - tp
        matched = worst * tp + (1 - worst) * iou_sum
        return Counts(tp, fp, fn, matched + self._scores.unmatched * (fp + fn))


@compiled
def _match_greedily(
    made: Any, true: Any, iou: Any, size: Any, min_size: int, n_made: int, n_true: int
) -> tuple[int, float]:
    """Match pairs in order, each id once; return the number of matches and the sum of their IoU."""
    is_made_free, is_true_free = np.ones(n_made, np.bool_), np.ones(n_true, np.bool_)
    matches, iou_sum = 0, 0.0
    for pair in range(made.size):
        a, b = made[pair], true[pair]
        if size[pair] >= min_size and is_made_free[a] and is_true_free[b]:
            is_made_free[a] = is_true_free[b] = False
            matches += 1
            iou_sum += iou[pair]
    return matches, iou_sum


def assemblies(settings: Settings, space: SearchSpace) -> list[Settings]:
    """List `settings` with all combinations of the values in `space` that `estimate_all` tries."""
    names = [name for name in ESTIMATED_SETTINGS if name in space]
    combinations = itertools.product(*(space[name] for name in names))
    return [settings | dict(zip(names, values, strict=True)) for values in combinations]


def estimate_all(
    fragments: Fragments,
    overlap: Overlap,
    settings: Settings,
    space: SearchSpace,
    voxel_size: Sequence[float],
    scores: MatchEstimate,
) -> list[Counts]:
    """Estimate the counts of all `assemblies` of the settings, in their order."""
    found: list[Counts] = []
    sizes = [size_in_voxels(nm3, voxel_size) for nm3 in space["min_size_nm3"]]
    last_lookup, of_last = None, list[Counts]()
    for lookup in _merged_objects(fragments, settings, space):
        if last_lookup is None or not np.array_equal(lookup, last_lookup):
            last_lookup, of_last = lookup, []
            merged = overlap.merged(lookup)
            estimator = MatchEstimator(merged, scores)
            for merges_small in space.get("merge_small", [False]):
                if merges_small:
                    of_last += _estimates_without_small(fragments, merged, lookup, sizes, scores)
                else:
                    of_last += [estimator.estimate(min_voxels) for min_voxels in sizes]
        found += of_last
    return found


def _estimates_without_small(
    fragments: Fragments,
    overlap: Overlap,
    lookup: NDArray[np.int64],
    sizes: Sequence[int],
    scores: MatchEstimate,
) -> Iterator[Counts]:
    """Yield the estimate for each minimum size after smaller objects have merged."""
    dendrogram = small_object_dendrogram(fragments, lookup)
    n_merges, estimator = 0, MatchEstimator(overlap, scores)
    for min_voxels in sizes:
        if dendrogram.count(min_voxels) != n_merges:
            n_merges = dendrogram.count(min_voxels)
            # The objects of a larger size contain those of a smaller one.
            overlap = overlap.merged(dendrogram.cut(min_voxels))
            estimator = MatchEstimator(overlap, scores)
        yield estimator.estimate(min_voxels)


def _merged_objects(
    fragments: Fragments, settings: Settings, space: SearchSpace
) -> Iterator[NDArray[np.int64]]:
    """Yield the object of each fragment for each value of the setting that merges fragments."""
    name = next((name for name in ("merge_threshold", "neck") if name in space), None)
    for value in space[name] if name else [None]:
        yield merge_fragments(fragments, settings | {name: value} if name else settings)
