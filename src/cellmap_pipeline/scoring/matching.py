"""True and predicted objects of a label, and which of them match.

Predicted ids are split into connected components and matched one to one to the true instances.
Method: cellmap-segmentation-challenge, utils.eval_utils (2026-06-30).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray
from ortools.graph.python import min_cost_flow

from cellmap_pipeline.scoring.hausdorff import hausdorff_distance
from cellmap_pipeline.scoring.objects import Objects, label_components, objects_from_ids
from cellmap_pipeline.scoring.rules.base import DistanceScale
from cellmap_pipeline.scoring.slabs import ArrayLike, TransposedView, is_fortran, slabs

# The evaluator's constants.
COST_SCALE = 1_000_000
MAX_OVERLAPS = 5_000_000
# Above this number the unused ids, which the evaluator includes in its matching, are left out.
MAX_NODES = 5_000_000
# Up to this number of pairs of objects their overlaps are counted in a table of all pairs.
MAX_TABLE_PAIRS = 1 << 20


def match_objects(
    pred: ArrayLike | NDArray[Any],
    truth: ArrayLike | NDArray[Any],
    voxel_size: Sequence[float],
    count_skipped: bool = False,
) -> MatchedObjects:
    """Match the objects of a predicted label to those of the ground truth.

    Arrays larger than a slab are read in slabs. Each is kept in memory as object numbers of two
    bytes a voxel, or four if there are more than 65,535 objects.

    Parameters
    ----------
    pred
        (z, y, x) ids; 0 is background. Parts of an id that do not touch (26-neighborhood) count as
        separate objects.
    truth
        (z, y, x) whole ids; 0 is background.
    voxel_size
        nm, z, y, x.
    count_skipped
        Whether to count the objects of a crop with too many of them, too.

    Raises
    ------
    ValueError
        The shapes differ, or true ids are negative or fractional.
    TypeError
        The prediction has a type that the evaluator cannot split into components.
    """
    if tuple(pred.shape) != tuple(truth.shape):
        raise ValueError(f"prediction {pred.shape} and ground truth {truth.shape} differ in shape")
    if is_fortran(pred):
        # The evaluator numbers components in memory order.
        pred, truth, voxel_size = TransposedView(pred), TransposedView(truth), voxel_size[::-1]
    true = objects_from_ids(truth)
    limit = instance_ratio_limit(true.highest) * true.highest if true.highest else None
    components = label_components(pred, None if count_skipped else limit)
    if components is None:
        return MatchedObjects("skipped_too_many_instances")
    predicted = Objects.from_numbers(components)
    if limit is not None and predicted.highest > limit:
        return MatchedObjects("skipped_too_many_instances", true, predicted)
    overlaps = _overlaps(true, predicted)
    if overlaps.true.size > MAX_OVERLAPS:
        objects = (true, predicted) if count_skipped else ()
        return MatchedObjects("skipped_too_many_instances", *objects)
    matches = _match(overlaps, true, predicted.highest)
    if matches is None:
        return MatchedObjects("matching_failed")
    return MatchedObjects("scored", true, predicted, matches, overlaps.iou, tuple(voxel_size))


@dataclass(frozen=True)
class MatchedObjects:
    """True and predicted objects of a label, and which of them match.

    Attributes
    ----------
    status
        `scored`, or why nothing matches (`skipped_too_many_instances`, `matching_failed`).
    true, predicted
        The objects; None if they are not counted.
    matches
        Number of the predicted object that each matched true object has, by its number.
    iou
        float32 (n,), intersection over union of each pair of objects that share voxels.
    voxel_size
        nm, in the order of the axes of the objects.
    """

    status: str
    true: Objects | None = None
    predicted: Objects | None = None
    matches: Mapping[int, int] = field(default_factory=dict)
    iou: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    voxel_size: tuple[float, ...] = ()

    @property
    def n_true(self) -> int:
        """Number of true objects."""
        return len(self.true.numbers) if self.true else 0

    @property
    def n_predicted(self) -> int:
        """Number of predicted objects."""
        return self.predicted.highest if self.predicted else 0

    @property
    def scale(self) -> DistanceScale:
        """Scale of the distances in this crop."""
        assert self.true is not None
        return DistanceScale.of(self.true.volume.shape, self.voxel_size)

    def distances(self, ids_collide: bool, cap_nm: float) -> NDArray[np.float64]:
        """Measure the distance of each true object, by ascending id, to its match, nm.

        Parameters
        ----------
        ids_collide
            Whether unmatched predicted objects keep their numbers, and so join the true object
            with that id.
        cap_nm
            The largest distance that is measured.

        Returns
        -------
        NaN for true objects without a match, unless an unmatched object has its id.
        """
        assert self.true is not None and self.predicted is not None
        spacing = np.asarray(self.voxel_size, np.float64)
        matched = set(self.matches.values())
        distances = []
        for number in self.true.numbers.tolist():
            components = [self.matches[number]] if number in self.matches else []
            id_ = int(self.true.ids[number])
            if ids_collide and id_ <= self.predicted.highest and id_ not in matched:
                components.append(id_)
            distance = hausdorff_distance(
                self.true, number, self.predicted, components, spacing, cap_nm
            )
            distances.append(distance if components else np.nan)
        return np.array(distances, np.float64)


def instance_ratio_limit(n_true: int) -> float:
    """Ratio of predicted to true objects above which the evaluator skips a crop."""
    return float(10 + 50 * np.exp(-n_true / 5))


@dataclass
class Overlaps:
    """Pairs of a true and a predicted object that share voxels, sorted by their numbers.

    Attributes
    ----------
    true, predicted
        Object numbers, one per pair.
    iou
        Intersection over union of each pair.
    """

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    iou: NDArray[np.float32]


def _overlaps(true: Objects, predicted: Objects) -> Overlaps:
    n_true, n_pred = len(true.sizes), len(predicted.sizes)
    if n_true * n_pred <= MAX_TABLE_PAIRS:
        table = np.zeros(n_true * n_pred, np.int64)
        for t, p in slabs(true.volume, predicted.volume):
            key = t.astype(np.uint32)
            key *= np.uint32(n_pred)
            key += p
            table += np.bincount(key.ravel(), minlength=len(table))
        pairs = np.flatnonzero(table)
        shared = table[pairs]
    else:
        pairs, shared = _sorted_overlaps(true, predicted)
    t_numbers, p_numbers = pairs // n_pred, pairs % n_pred
    both = (t_numbers != 0) & (p_numbers != 0)
    t_numbers, p_numbers, shared = t_numbers[both], p_numbers[both], shared[both]
    union = true.sizes[t_numbers] + predicted.sizes[p_numbers] - shared
    return Overlaps(t_numbers, p_numbers, (shared / union).astype(np.float32))


def _sorted_overlaps(
    true: Objects, predicted: Objects
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    base = np.uint64(len(predicted.sizes))
    keys, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for t, p in slabs(true.volume, predicted.volume):
        both = (t != 0) & (p != 0)
        key = t[both].astype(np.uint64) * base + p[both].astype(np.uint64)
        slab_keys, slab_counts = fastremap.unique(key, return_counts=True)
        keys.append(slab_keys)
        counts.append(slab_counts.astype(np.int64))
    pairs, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    shared = np.zeros(len(pairs), np.int64)
    np.add.at(shared, inverse, np.concatenate(counts))
    return pairs.astype(np.int64), shared


def _match(overlaps: Overlaps, true: Objects, n_pred: int) -> dict[int, int] | None:
    """Match true objects to components, both by number; None if the solver fails.

    Solves a min-cost flow in which leaving a true object unmatched costs more than any match. Nodes
    and arcs are in the evaluator's order, including unused ids, so that ties are resolved in the
    same way.
    """
    if overlaps.true.size == 0:
        return {}
    n_true, ids = true.highest, true.ids[overlaps.true]
    if n_true > MAX_NODES:
        n_true, ids = len(true.ids) - 1, overlaps.true
    source, sink = 0, n_true + n_pred + 1
    true_nodes = np.arange(1, n_true + 1)
    pred_nodes = np.arange(n_true + 1, sink)
    tails = [np.full(n_true, source), true_nodes, ids, pred_nodes]
    heads = [true_nodes, np.full(n_true, sink), overlaps.predicted + n_true, np.full(n_pred, sink)]
    costs = [
        np.zeros(n_true, np.int64),
        np.full(n_true, COST_SCALE + 1),
        ((1.0 - overlaps.iou.astype(np.float64)) * COST_SCALE).astype(np.int64),
        np.zeros(n_pred, np.int64),
    ]
    flow = min_cost_flow.SimpleMinCostFlow()
    flow.add_arcs_with_capacity_and_unit_cost(
        np.concatenate(tails).astype(np.int32),
        np.concatenate(heads).astype(np.int32),
        np.ones(sum(len(t) for t in tails), np.int64),
        np.concatenate(costs),
    )
    flow.set_node_supply(source, n_true)
    flow.set_node_supply(sink, -n_true)
    if flow.solve() != flow.OPTIMAL:
        return None
    arcs = np.arange(2 * n_true, 2 * n_true + len(overlaps.true))
    used = np.flatnonzero(flow.flows(arcs) == 1)
    return {int(overlaps.true[k]): int(overlaps.predicted[k]) for k in used}
