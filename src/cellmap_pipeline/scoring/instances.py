"""Instance scores as the CellMap challenge's official evaluator counts them.

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

from cellmap_pipeline.scoring.hausdorff import hausdorff
from cellmap_pipeline.scoring.objects import Objects, label_components, objects_of_ids
from cellmap_pipeline.scoring.slabs import Transposed, Volume, is_fortran, slabs

# The evaluator's constants.
COST_SCALE = 1_000_000
MAX_OVERLAPS = 5_000_000
# Ids above this are matched without the unused ones between them, which the evaluator includes.
MAX_NODES = 5_000_000
# Pairs of objects that are counted in a table of all pairs.
TABLE = 1 << 20

WITHOUT_COLLISIONS = "_without_collisions"


def score_instance(
    pred: Volume | NDArray[Any],
    truth: Volume | NDArray[Any],
    voxel_size: Sequence[float],
    without_collisions: bool = False,
) -> dict[str, Any]:
    """Counts and distances of one predicted label against the truth.

    Volumes larger than a slab are read in slabs; kept of them are numbers of two bytes a voxel
    each, four where there are more than 65,535 objects.

    Parameters
    ----------
    pred
        (z, y, x) ids; 0 is background. Parts of an id that do not touch (26-neighbourhood) count as
        objects of their own.
    truth
        (z, y, x) whole ids; 0 is background.
    voxel_size
        nm, z, y, x.
    without_collisions
        Also measure each true object to its match alone.

    Returns
    -------
    `tp`, `fp`, `fn` : objects.
    `hausdorff_norm_sum`, `n_hausdorff` : sum and number of the normalised distances, 1 being
        perfect; an object without a partner counts at the capped distance.
    `status`
        `scored`, or why the crop counts for nothing (`skipped_too_many_instances`,
        `matching_failed`).
    `hausdorff_norm_sum_without_collisions`
        If asked for.

    Raises
    ------
    ValueError
        The shapes differ, or true ids are negative or not whole.
    TypeError
        The prediction has a type that the evaluator cannot split into components.
    """
    if tuple(pred.shape) != tuple(truth.shape):
        raise ValueError(f"prediction {pred.shape} and truth {truth.shape} differ in shape")
    if is_fortran(pred):
        # The evaluator numbers components in the order of memory.
        pred, truth, voxel_size = Transposed(pred), Transposed(truth), voxel_size[::-1]
    true = objects_of_ids(truth)
    limit = instance_ratio_limit(true.highest) * true.highest if true.highest else None
    components = label_components(pred, limit)
    if components is None:
        return _unscored("skipped_too_many_instances", without_collisions)
    predicted = Objects.of(components)
    overlaps = _overlaps(true, predicted)
    if overlaps.true.size > MAX_OVERLAPS:
        return _unscored("skipped_too_many_instances", without_collisions)
    partner = _match(overlaps, true, predicted.highest)
    if partner is None:
        return _unscored("matching_failed", without_collisions)
    return _counts(true, predicted, partner, voxel_size, without_collisions)


def instance_ratio_limit(n_true: int) -> float:
    """Predicted objects per true one above which the evaluator skips a crop."""
    return float(10 + 50 * np.exp(-n_true / 5))


@dataclass
class Overlaps:
    """Pairs of a true and a predicted object that share voxels, by true, then predicted number."""

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    iou: NDArray[np.float32]


def _unscored(status: str, without_collisions: bool) -> dict[str, Any]:
    counts: dict[str, Any] = {"tp": 0, "fp": 0, "fn": 0}
    counts |= {"hausdorff_norm_sum": 0.0, "n_hausdorff": 0, "status": status}
    if without_collisions:
        counts["hausdorff_norm_sum" + WITHOUT_COLLISIONS] = 0.0
    return counts


def _overlaps(true: Objects, predicted: Objects) -> Overlaps:
    n_true, n_pred = len(true.sizes), len(predicted.sizes)
    if n_true * n_pred <= TABLE:
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
    """Component of each matched true object, by number, or None where the solver fails.

    A min-cost flow in which leaving a true object unmatched costs more than any match. Nodes and
    arcs come in the evaluator's order, unused ids included, so that ties end as they do there.
    """
    if overlaps.true.size == 0:
        return {}
    n_true, ids = true.highest, true.names[overlaps.true]
    if n_true > MAX_NODES:
        n_true, ids = len(true.names) - 1, overlaps.true
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


def _counts(
    true: Objects,
    predicted: Objects,
    partner: dict[int, int],
    voxel_size: Sequence[float],
    without_collisions: bool,
) -> dict[str, Any]:
    spacing = np.asarray(voxel_size, np.float64)
    cap = min(v * n / 2 for v, n in zip(voxel_size, true.volume.shape, strict=True))
    matched = set(partner.values())
    distances, alone = [], []
    for number in true.numbers.tolist():
        match = [partner[number]] if number in partner else []
        # An unmatched component keeps its number, and so joins the true object of that number.
        name = int(true.names[number])
        stray = [name] if name <= predicted.highest and name not in matched else []
        distances.append(hausdorff(true, number, predicted, match + stray, spacing, cap))
        if without_collisions:
            own = hausdorff(true, number, predicted, match, spacing, cap) if stray else None
            alone.append(distances[-1] if own is None else own)
    unmatched = [cap] * (predicted.highest - len(matched))
    counts = {
        "tp": len(partner),
        "fp": len(unmatched),
        "fn": len(distances) - len(partner),
        "hausdorff_norm_sum": _norm_sum(distances + unmatched, spacing),
        "n_hausdorff": len(distances) + len(unmatched),
        "status": "scored",
    }
    if without_collisions:
        counts["hausdorff_norm_sum" + WITHOUT_COLLISIONS] = _norm_sum(alone + unmatched, spacing)
    return counts


def _norm_sum(distances: Sequence[float], spacing: NDArray[np.float64]) -> float:
    # The evaluator keeps distances in float32 before it normalises them in float64.
    rounded = np.asarray(distances, np.float32).astype(np.float64)
    return float(np.sum(1.01 ** (-rounded / np.linalg.norm(spacing))))
