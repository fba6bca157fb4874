"""Instance scores as the CellMap challenge's official evaluator counts them.

Predicted ids are split into connected components, matched one to one to the true instances, and
each true instance gets a Hausdorff distance. Method: cellmap-segmentation-challenge,
utils.eval_utils (2026-06-30). The distances are the same, but are found from the surfaces of the
two objects instead of distance transforms of the volume around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import fastremap
import numpy as np
from numpy.typing import NDArray
from ortools.graph.python import min_cost_flow
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

# The evaluator's constants.
COST_SCALE = 1_000_000
MAX_OVERLAPS = 5_000_000

FACTOR = 4
SLAB_VOXELS = 1 << 24


def score_instance(
    pred: NDArray[Any], truth: NDArray[Any], voxel_size: Sequence[float]
) -> dict[str, Any]:
    """Counts and distances of one predicted label against the truth.

    Parameters
    ----------
    pred : (z, y, x) ids; 0 is background. Parts of an id that do not touch (26-neighbourhood)
        count as objects of their own.
    truth : (z, y, x) integer ids; 0 is background.
    voxel_size : nm, z, y, x.

    Returns
    -------
    `tp`, `fp`, `fn` : objects.
    `hausdorff_norm_sum`, `n_hausdorff` : sum and number of the normalised distances, 1 being
        perfect; an object without a partner counts at the capped distance.
    `status` : `scored`, or why the crop counts for nothing (`skipped_too_many_instances`,
        `matching_failed`).

    Raises
    ------
    ValueError
        The shapes differ or true ids are negative.
    """
    if pred.shape != truth.shape:
        raise ValueError(f"prediction {pred.shape} and truth {truth.shape} differ in shape")
    if truth.dtype.kind == "i" and truth.min() < 0:
        raise ValueError("true ids are 0 or more")
    if truth.max() >= truth.size:
        # The evaluator cannot score such ids at all.
        truth, _ = fastremap.renumber(truth, in_place=False)
    components, n_pred = cc3d.connected_components(pred, return_N=True)
    predicted, true = Objects.of(components), Objects.of(truth)
    if true.highest and n_pred / true.highest > instance_ratio_limit(true.highest):
        return _unscored("skipped_too_many_instances")
    overlaps = _overlaps(true, predicted)
    if overlaps.true.size > MAX_OVERLAPS:
        return _unscored("skipped_too_many_instances")
    partner = _match(overlaps, true.highest, n_pred)
    if partner is None:
        return _unscored("matching_failed")

    cap = min(v * n / 2 for v, n in zip(voxel_size, truth.shape, strict=True))
    spacing = np.asarray(voxel_size, np.float64)
    matched = set(partner.values())
    distances = []
    for i in true.ids:
        # An unmatched component keeps its number, and so joins the true object of that number.
        parts = [partner[i]] if i in partner else []
        parts += [i] if i <= n_pred and i not in matched else []
        distances.append(_hausdorff(true, i, predicted, parts, spacing, cap))
    unmatched = n_pred - len(matched)
    distances += [cap] * unmatched
    # The evaluator keeps distances in float32 before it normalises them in float64.
    rounded = np.asarray(distances, np.float32).astype(np.float64)
    scores = 1.01 ** (-rounded / np.linalg.norm(spacing))
    return {
        "tp": len(partner),
        "fp": unmatched,
        "fn": len(true.ids) - len(partner),
        "hausdorff_norm_sum": float(np.sum(scores)),
        "n_hausdorff": len(distances),
        "status": "scored",
    }


def instance_ratio_limit(n_true: int) -> float:
    """Predicted objects per true one above which the evaluator skips a crop."""
    return float(10 + 50 * np.exp(-n_true / 5))


@dataclass
class Objects:
    """The objects of a volume of ids, with their sizes and bounding boxes by id."""

    volume: NDArray[Any]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def of(cls, volume: NDArray[Any]) -> Objects:
        statistics = cc3d.statistics(volume, no_slice_conversion=True)
        boxes = statistics["bounding_boxes"].astype(np.int64)
        sizes = statistics["voxel_counts"].astype(np.int64)
        return cls(volume, sizes, boxes[:, ::2], boxes[:, 1::2] + 1)

    @property
    def highest(self) -> int:
        """The highest id."""
        return len(self.sizes) - 1

    @property
    def ids(self) -> list[int]:
        """The ids that occur, ascending."""
        return [int(i) + 1 for i in np.flatnonzero(self.sizes[1:])]

    def box(self, i: int) -> tuple[slice, ...]:
        """Bounding box of object `i`."""
        return tuple(slice(a, b) for a, b in zip(self.starts[i], self.stops[i], strict=True))


@dataclass
class Overlaps:
    """Pairs of a true and a predicted object that share voxels, by true, then predicted id."""

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    iou: NDArray[np.float32]


def _unscored(status: str) -> dict[str, Any]:
    counts = {"tp": 0, "fp": 0, "fn": 0, "hausdorff_norm_sum": 0.0, "n_hausdorff": 0}
    return counts | {"status": status}


def _overlaps(true: Objects, predicted: Objects) -> Overlaps:
    base = np.uint64(predicted.highest + 1)
    keys, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    depth = max(1, SLAB_VOXELS // max(1, true.volume[0].size))
    for z in range(0, len(true.volume), depth):
        t, p = true.volume[z : z + depth], predicted.volume[z : z + depth]
        both = (t != 0) & (p != 0)
        key = t[both].astype(np.uint64) * base + p[both].astype(np.uint64)
        slab_keys, slab_counts = fastremap.unique(key, return_counts=True)
        keys.append(slab_keys)
        counts.append(slab_counts.astype(np.int64))
    pairs, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    shared = np.zeros(len(pairs), np.int64)
    np.add.at(shared, inverse, np.concatenate(counts))
    t_ids, p_ids = (pairs // base).astype(np.int64), (pairs % base).astype(np.int64)
    union = true.sizes[t_ids] + predicted.sizes[p_ids] - shared
    return Overlaps(t_ids, p_ids, (shared / union).astype(np.float32))


def _match(overlaps: Overlaps, n_true: int, n_pred: int) -> dict[int, int] | None:
    """Component of each matched true id, or None where the solver fails.

    A min-cost flow in which leaving a true object unmatched costs more than any match. Nodes and
    arcs come in the evaluator's order, unused ids included, so that ties end as they do there.
    """
    if overlaps.true.size == 0:
        return {}
    source, sink = 0, n_true + n_pred + 1
    true_nodes = np.arange(1, n_true + 1)
    pred_nodes = np.arange(n_true + 1, sink)
    tails = [np.full(n_true, source), true_nodes, overlaps.true, pred_nodes]
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


def _hausdorff(
    true: Objects,
    i: int,
    predicted: Objects,
    parts: list[int],
    spacing: NDArray[np.float64],
    cap: float,
) -> float:
    """Hausdorff distance (nm, at most `cap`) of true object `i` to the union of `parts`."""
    if not parts:
        return cap
    box = true.box(i)
    own, other = true.volume[box] == i, predicted.volume[box]
    missed = own.copy()
    for part in parts:
        missed &= other != part
    distance = 0.0
    if missed.any():
        surface = [
            _surface(predicted.volume[predicted.box(part)] == part, predicted.starts[part])
            for part in parts
        ]
        points = Surface.of(np.concatenate(surface), spacing)
        distance = _farthest(missed, true.starts[i], points, cap)
    points_of_truth = None
    for part in parts:
        box = predicted.box(part)
        extra = (predicted.volume[box] == part) & (true.volume[box] != i)
        if distance < cap and extra.any():
            if points_of_truth is None:
                points_of_truth = Surface.of(_surface(own, true.starts[i]), spacing)
            farthest = _farthest(extra, predicted.starts[part], points_of_truth, cap)
            distance = max(distance, farthest)
    return min(distance, cap)


@dataclass
class Surface:
    """The outermost voxels of an object: for points outside it the nearest voxel is one of them."""

    voxels: NDArray[np.int64]
    spacing: NDArray[np.float64]
    tree: cKDTree

    @classmethod
    def of(cls, voxels: NDArray[np.int64], spacing: NDArray[np.float64]) -> Surface:
        # On a lattice, medians make slow trees: many points share a coordinate.
        tree = cKDTree(voxels * spacing, balanced_tree=False, compact_nodes=False)
        return cls(voxels, spacing, tree)

    def distance(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Distance (nm) of each of `points` ((n, 3), voxels) to the nearest voxel."""
        _, nearest = self.tree.query(points * self.spacing)
        # From whole voxels apart, as in a distance transform, so that both round alike.
        apart = (points - self.voxels[nearest]) * self.spacing
        return np.sqrt((apart * apart).sum(axis=1))


def _surface(mask: NDArray[np.bool_], origin: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.argwhere(mask & ~binary_erosion(mask)) + origin


def _farthest(
    mask: NDArray[np.bool_], origin: NDArray[np.int64], surface: Surface, cap: float
) -> float:
    """Largest distance (nm) of a voxel of `mask` to `surface`; `cap` or more is not told apart.

    From coarse to fine: the distance at the centre of a cube bounds that of its voxels from both
    sides, so only cubes that can hold the farthest voxel are divided.
    """
    levels: list[NDArray[np.bool_]] = [_divisible(mask)]
    while max(levels[-1].shape) > FACTOR:
        levels.append(_divisible(np.any(_cubes(levels[-1]), axis=(1, 3, 5))))
    cells = np.argwhere(levels[-1])
    farthest = 0.0
    for level in range(len(levels) - 1, -1, -1):
        size = FACTOR**level
        distance = surface.distance(cells * size + (size - 1) / 2 + origin)
        radius = (size - 1) / 2 * float(np.linalg.norm(surface.spacing))
        farthest = max(farthest, float(distance.max()) - radius)
        if farthest >= cap:
            return cap
        if level:
            cells = cells[distance + radius >= farthest * (1 - 1e-9)]
            z, y, x = cells.T
            cube, *inside = np.nonzero(_cubes(levels[level - 1])[z, :, y, :, x, :])
            cells = cells[cube] * FACTOR + np.stack(inside, axis=1)
    return farthest


def _divisible(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`mask` padded to whole cubes."""
    pad = [(0, -n % FACTOR) for n in mask.shape]
    return np.pad(mask, pad) if any(after for _, after in pad) else mask


def _cubes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """View of a `_divisible` mask in which axes 1, 3, 5 run within a cube."""
    nz, ny, nx = (n // FACTOR for n in mask.shape)
    return mask.reshape(nz, FACTOR, ny, FACTOR, nx, FACTOR)
