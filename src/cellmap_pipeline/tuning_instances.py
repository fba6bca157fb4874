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

from cellmap_pipeline.fragments import Fragments
from cellmap_pipeline.postprocess import Settings
from cellmap_pipeline.scoring_instances import instance_ratio_limit
from cellmap_pipeline.segmentation import join, join_small, voxels

JOINING = ("merge_threshold", "neck")


@dataclass(frozen=True)
class Overlap:
    """The voxels that each piece shares with each true object, background (0) included.

    Parameters
    ----------
    piece, true : int64 (m,), ids; true objects are numbered 1..n.
    shared : int64 (m,), voxels.
    true_sizes : int64 (n + 1,).
    worst : normalised distance of an object without a partner.
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


def estimate(overlap: Overlap, lookup: NDArray[np.int64], smallest: int) -> Estimate:
    """Judge the objects that `lookup` makes of the pieces, without those below `smallest` voxels.

    Objects are matched greedily by IoU, and a match counts as near as its IoU is high: from the
    distance of an object without a partner at 0 to no distance at 1.
    """
    n_true = overlap.true_sizes.size - 1
    made = lookup[overlap.piece]
    sizes = np.bincount(made, overlap.shared, lookup.size)
    sizes[0] = 0
    sizes[sizes < smallest] = 0
    n_made = int(np.count_nonzero(sizes))
    if n_true and n_made / n_true > instance_ratio_limit(n_true):
        return Estimate(fn=n_true)
    both = (overlap.true != 0) & (sizes[made] > 0)
    keys, index = np.unique(made[both] * (n_true + 1) + overlap.true[both], return_inverse=True)
    made, true = keys // (n_true + 1), keys % (n_true + 1)
    shared = np.bincount(index, overlap.shared[both], keys.size)
    iou = shared / (sizes[made] + overlap.true_sizes[true] - shared)
    order = np.argsort(-iou, kind="stable")
    taken_made, taken_true, near = set[int](), set[int](), []
    for m, t, value in zip(
        made[order].tolist(), true[order].tolist(), iou[order].tolist(), strict=True
    ):
        if m not in taken_made and t not in taken_true:
            taken_made.add(m)
            taken_true.add(t)
            near.append(overlap.worst + (1 - overlap.worst) * value)
    tp, fp, fn = len(near), n_made - len(near), n_true - len(near)
    return Estimate(tp, fp, fn, sum(near) + overlap.worst * (fp + fn))


def estimates(
    pieces: Fragments,
    overlap: Overlap,
    settings: Settings,
    grid: Mapping[str, Sequence[Any]],
    voxel_size: Sequence[float],
) -> list[tuple[Settings, Estimate]]:
    """Estimates for all combinations in `grid` of the settings that put pieces together."""
    name = next((n for n in JOINING if n in grid), None)
    found = []
    for part, lookup in _joined(pieces, settings, grid, name):
        for small, nm3 in itertools.product(grid.get("merge_small", [None]), grid["min_size_nm3"]):
            chosen = part | {"min_size_nm3": nm3}
            smallest, final = voxels(nm3, voxel_size), lookup
            if small is not None:
                chosen["merge_small"] = small
                if small:
                    final = join_small(pieces, lookup, smallest)
            found.append((chosen, estimate(overlap, final, smallest)))
    return found


def _joined(
    pieces: Fragments, settings: Settings, grid: Mapping[str, Sequence[Any]], name: str | None
) -> Iterator[tuple[Settings, NDArray[np.int64]]]:
    for value in grid[name] if name else [None]:
        part = settings | ({name: value} if name else {})
        yield part, join(pieces, part)
