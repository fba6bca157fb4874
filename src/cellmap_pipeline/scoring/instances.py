"""Instance scores of a label, as the CellMap challenge's official evaluator computes them.

Predicted ids are split into connected components, matched one to one to the true instances, and
each true instance gets a Hausdorff distance. Method: cellmap-segmentation-challenge,
utils.eval_utils (2026-06-30).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray
from ortools.graph.python import min_cost_flow

from cellmap_pipeline.scoring.hausdorff import hausdorff_distance
from cellmap_pipeline.scoring.objects import Objects, label_components, objects_from_ids
from cellmap_pipeline.scoring.slabs import ArrayLike, TransposedView, is_fortran, slabs

# The evaluator's constants.
COST_SCALE = 1_000_000
MAX_OVERLAPS = 5_000_000
# Above this number the unused ids, which the evaluator includes in its matching, are left out.
MAX_NODES = 5_000_000
# Up to this number of pairs of objects their overlaps are counted in a table of all pairs.
MAX_TABLE_PAIRS = 1 << 20

WITHOUT_COLLISIONS = "_without_collisions"


def score_instance(
    pred: ArrayLike | NDArray[Any],
    truth: ArrayLike | NDArray[Any],
    voxel_size: Sequence[float],
    without_collisions: bool = False,
) -> dict[str, Any]:
    """Count and measure the objects of a predicted label against the ground truth.

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
    without_collisions
        Also measure each true object against its match alone.

    Returns
    -------
    `tp`, `fp`, `fn`
        Number of objects.
    `hausdorff_norm_sum`, `n_hausdorff`
        Sum and number of the normalized distances, where 1 is perfect; an unmatched object counts
        at the capped distance.
    `status`
        `scored`, or why the crop is ignored (`skipped_too_many_instances`, `matching_failed`).
    `hausdorff_norm_sum_without_collisions`
        Only if `without_collisions`.

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
    components = label_components(pred, limit)
    if components is None:
        return _skipped("skipped_too_many_instances", without_collisions)
    predicted = Objects.from_numbers(components)
    overlaps = _overlaps(true, predicted)
    if overlaps.true.size > MAX_OVERLAPS:
        return _skipped("skipped_too_many_instances", without_collisions)
    matches = _match(overlaps, true, predicted.highest)
    if matches is None:
        return _skipped("matching_failed", without_collisions)
    return _measure(true, predicted, matches, voxel_size, without_collisions)


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


def _skipped(status: str, without_collisions: bool) -> dict[str, Any]:
    counts: dict[str, Any] = {"tp": 0, "fp": 0, "fn": 0}
    counts |= {"hausdorff_norm_sum": 0.0, "n_hausdorff": 0, "status": status}
    if without_collisions:
        counts["hausdorff_norm_sum" + WITHOUT_COLLISIONS] = 0.0
    return counts


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


def _measure(
    true: Objects,
    predicted: Objects,
    matches: dict[int, int],
    voxel_size: Sequence[float],
    without_collisions: bool,
) -> dict[str, Any]:
    spacing = np.asarray(voxel_size, np.float64)
    cap = min(v * n / 2 for v, n in zip(voxel_size, true.volume.shape, strict=True))
    matched = set(matches.values())
    distances, match_distances = [], []
    for number in true.numbers.tolist():
        match = [matches[number]] if number in matches else []
        # In the evaluator an unmatched component keeps its number, and so joins the true object
        # with that id.
        id_ = int(true.ids[number])
        colliding = [id_] if id_ <= predicted.highest and id_ not in matched else []
        components = match + colliding
        distance = hausdorff_distance(true, number, predicted, components, spacing, cap)
        distances.append(distance)
        if without_collisions:
            if colliding:
                distance = hausdorff_distance(true, number, predicted, match, spacing, cap)
            match_distances.append(distance)
    unmatched = [cap] * (predicted.highest - len(matched))
    counts = {
        "tp": len(matches),
        "fp": len(unmatched),
        "fn": len(distances) - len(matches),
        "hausdorff_norm_sum": _norm_sum(distances + unmatched, spacing),
        "n_hausdorff": len(distances) + len(unmatched),
        "status": "scored",
    }
    if without_collisions:
        norm_sum = _norm_sum(match_distances + unmatched, spacing)
        counts["hausdorff_norm_sum" + WITHOUT_COLLISIONS] = norm_sum
    return counts


def _norm_sum(distances: Sequence[float], spacing: NDArray[np.float64]) -> float:
    # The evaluator stores distances in float32, then normalizes them in float64.
    rounded = np.asarray(distances, np.float32).astype(np.float64)
    return float(np.sum(1.01 ** (-rounded / np.linalg.norm(spacing))))
