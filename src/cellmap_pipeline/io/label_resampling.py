"""Resampling of labels from one grid to another by the overlap of voxels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.geometry import TOLERANCE_VOXELS, Grid, Vector
from cellmap_pipeline.io.resampling import nearest_indices, overlap_weights

# Overlaps are sums of float32.
OVERLAP_TOLERANCE = 1e-4
# Fraction of a voxel that must be known for the voxel to be.
MIN_KNOWN_FRACTION = 0.5
# Source voxels in memory at once, several times, where target voxels overlap with several ids.
MAX_COMPARED_VOXELS = 2**22


class _Overlap(NamedTuple):
    """Source voxels that each target voxel overlaps along an axis, and by how much of it."""

    indices: NDArray[np.int64]
    weights: NDArray[np.float32]
    is_inside: NDArray[np.bool_]


def resample_labels(
    ids: NDArray, known: NDArray[np.bool_], source: Grid, target: Grid
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Resample labels by the overlap of voxels.

    A voxel of the target is known where at least half of it is. It lies in an object where at least
    half of its known part does, and has the id that covers most of it; of several, the smallest.
    Along axes on which the target is not coarser than the source, only the nearest voxel counts.

    Parameters
    ----------
    ids
        (z, y, x) integers on `source`; 0 is background, and the value of unknown voxels.
    known
        (z, y, x) bool, where the labels are known. Outside of `source`, they are not.
    source, target
        Grids of the arrays and of the result.

    Returns
    -------
    ids
        (z, y, x) on `target`, of the same type; 0 where not known.
    known
        (z, y, x) bool on `target`.
    """
    overlaps = [
        _overlap(start, size / own, n, n_source)
        for start, size, own, n, n_source in zip(
            source.position(target), target.voxel_size, source.voxel_size, target.shape,
            source.shape, strict=True,
        )
    ]  # fmt: skip
    lowest, highest = _extremes(ids, overlaps)
    any_unknown, any_known = _extremes(known, overlaps)
    partly_outside = ~_all_inside(overlaps)
    result, result_known = highest.copy(), any_known.copy()
    mixed = (lowest != highest) | (any_unknown != any_known) | partly_outside
    positions = np.argwhere(mixed)
    compared = int(np.prod([overlap.indices.shape[1] for overlap in overlaps]))
    step = max(1, MAX_COMPARED_VOXELS // compared)
    for start in range(0, len(positions), step):
        part = positions[start : start + step]
        result[tuple(part.T)], result_known[tuple(part.T)] = _compare(ids, known, overlaps, part)
    return result, result_known


def is_too_thin(source: Grid, voxel_size: Vector) -> bool:
    """Whether labels on `source` cover too little of any voxel of `voxel_size` to be known."""
    lengths = [n * v for n, v in zip(source.shape, source.voxel_size, strict=True)]
    covered = math.prod(min(1, a / v) for a, v in zip(lengths, voxel_size, strict=True))
    return covered < MIN_KNOWN_FRACTION - OVERLAP_TOLERANCE


def _overlap(start: float, step: float, n: int, n_source: int) -> _Overlap:
    if step <= 1 + TOLERANCE_VOXELS:
        indices = nearest_indices(start, step, n)[:, None]
        weights = np.ones(indices.shape, np.float32)
    else:
        indices, weights = overlap_weights(start + step * np.arange(n), step)
    is_inside = (indices >= 0) & (indices < n_source)
    return _Overlap(indices.clip(0, n_source - 1), weights, is_inside)


def _extremes(array: NDArray, overlaps: list[_Overlap]) -> tuple[NDArray, NDArray]:
    """Smallest and largest value of the source voxels that each target voxel overlaps."""
    low = high = array
    for axis, (indices, _, _) in enumerate(overlaps):
        columns = indices.T
        low_axis, high_axis = low.take(columns[0], axis), high.take(columns[0], axis)
        for column in columns[1:]:
            np.minimum(low_axis, low.take(column, axis), out=low_axis)
            np.maximum(high_axis, high.take(column, axis), out=high_axis)
        low, high = low_axis, high_axis
    return low, high


def _all_inside(overlaps: list[_Overlap]) -> NDArray[np.bool_]:
    """Mark the target voxels that lie inside the source."""
    z, y, x = ((o.is_inside | (o.weights == 0)).all(axis=1) for o in overlaps)
    return z[:, None, None] & y[:, None] & x


def _compare(
    ids: NDArray, known: NDArray[np.bool_], overlaps: list[_Overlap], positions: NDArray[np.int64]
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Find the ids of target voxels at `positions` (n, 3), and whether they are known."""
    n = len(positions)
    per_axis = []
    for axis, overlap in enumerate(overlaps):
        shape = [n, 1, 1, 1]
        shape[axis + 1] = -1
        rows = positions[:, axis]
        weights = np.where(overlap.is_inside, overlap.weights, 0)[rows]
        per_axis.append((overlap.indices[rows].reshape(shape), weights.reshape(shape)))
    (z, wz), (y, wy), (x, wx) = per_axis
    overlapping = ids[z, y, x].reshape(n, -1)
    weights = (wz * wy * wx * known[z, y, x]).reshape(n, -1)
    known_part = weights.sum(axis=1)
    in_object = np.where(overlapping != 0, weights, 0).sum(axis=1)
    is_known = known_part >= MIN_KNOWN_FRACTION - OVERLAP_TOLERANCE
    is_object = is_known & (in_object > 0) & (in_object >= known_part / 2 - OVERLAP_TOLERANCE)
    return np.where(is_object, _commonest(overlapping, weights), ids.dtype.type(0)), is_known


def _commonest(ids: NDArray, weights: NDArray[np.float32]) -> NDArray:
    """Return for each row the id other than 0 with the largest sum of weights, or 0.

    Of several ids with the same sum, it is the smallest.
    """
    n, columns = ids.shape
    rows = np.repeat(np.arange(n), columns)
    flat, weight = ids.ravel(), np.where(ids != 0, weights, 0).ravel().astype(np.float64)
    order = np.lexsort((flat, rows))
    rows, flat, weight = rows[order], flat[order], weight[order]
    starts = np.flatnonzero(np.r_[True, (rows[1:] != rows[:-1]) | (flat[1:] != flat[:-1])])
    rows, flat, sums = rows[starts], flat[starts], np.add.reduceat(weight, starts)
    order = np.lexsort((flat, -np.round(sums / OVERLAP_TOLERANCE), rows))
    first = np.flatnonzero(np.r_[True, rows[order][1:] != rows[order][:-1]])
    return flat[order][first]
