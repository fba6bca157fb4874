"""Resampling of intensities and probabilities from one grid to another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.geometry import TOLERANCE_VOXELS, Grid


def resample(array: NDArray, source: Grid, target: Grid) -> NDArray[np.float32]:
    """Resample intensities or probabilities to the voxels of `target`.

    Axis by axis: where the target is coarser than the source, values are averaged over its voxels,
    weighted by overlap to avoid aliasing; where it is finer, they are interpolated linearly.
    Outside of the source, its outermost voxels are repeated.

    Parameters
    ----------
    array
        (z, y, x), any number type, on `source`.
    source, target
        Grids of the array and of the result.

    Returns
    -------
    (z, y, x) float32 on `target`.
    """
    if array.shape != source.shape:
        raise ValueError(f"array of shape {array.shape} does not lie on {source}")
    result = np.asarray(array)
    start = source.position(target)
    for axis in range(3):
        step = target.voxel_size[axis] / source.voxel_size[axis]
        indices, weights = interpolation_weights(
            source.shape[axis], start[axis], step, target.shape[axis]
        )
        result = _weighted_sum(result, axis, indices, weights)
    return result.astype(np.float32, copy=False)


def nearest_indices(start: float, step: float, n: int) -> NDArray[np.int64]:
    """Indices of the voxels that hold the positions `start + step · (0 … n-1)`.

    A position on the border of two voxels belongs to the lower one.
    """
    position = start + step * np.arange(n)
    return np.ceil(position - 0.5 - TOLERANCE_VOXELS / 2).astype(np.int64)


def interpolation_weights(n: int, start: float, step: float, n_out: int) -> tuple[NDArray, NDArray]:
    """Compute which source voxels contribute to each target voxel along an axis.

    Parameters
    ----------
    n
        Number of source voxels.
    start
        Position of the first target voxel's center, in source voxels.
    step
        Size of the target's voxels, in source voxels.
    n_out
        Number of target voxels.

    Returns
    -------
    Source indices and their weights, (n_out, contributing voxels) each.
    """
    center = start + step * np.arange(n_out)
    if step <= 1 + TOLERANCE_VOXELS:
        center = center.clip(0, n - 1)
        lower = np.floor(center + TOLERANCE_VOXELS / 2).astype(np.int64)
        fraction = (center - lower).clip(0, 1)
        if np.all(fraction < TOLERANCE_VOXELS):
            return lower[:, None], np.ones((n_out, 1), np.float32)
        indices = np.stack([lower, np.minimum(lower + 1, n - 1)], axis=1)
        return indices, np.stack([1 - fraction, fraction], axis=1).astype(np.float32)
    indices, weights = overlap_weights(center, step)
    return indices.clip(0, n - 1), weights


def overlap_weights(center: NDArray, step: float) -> tuple[NDArray, NDArray]:
    """Compute by how much source voxels overlap with larger target voxels along an axis.

    Parameters
    ----------
    center
        Positions of the target voxels' centers, in source voxels.
    step
        Size of the target's voxels, in source voxels.

    Returns
    -------
    indices
        (target voxels, overlapping voxels); they may lie outside of the source.
    weights
        Fraction of the target voxel that each one covers, of the same shape, float32.
    """
    # Voxel i of the source covers i ± ½; a target voxel covers its center ± step / 2.
    low, high = center - step / 2 + 0.5, center + step / 2 + 0.5
    first = np.floor(low + TOLERANCE_VOXELS / 2).astype(np.int64)
    contributing = int(np.ceil(step - TOLERANCE_VOXELS)) + 1
    indices = first[:, None] + np.arange(contributing)
    overlap = np.minimum(indices + 1, high[:, None]) - np.maximum(indices, low[:, None])
    overlap = np.where(overlap < TOLERANCE_VOXELS, 0, overlap)
    weights = overlap / overlap.sum(axis=1, keepdims=True)
    used = weights.any(axis=0)
    return indices[:, used], weights[:, used].astype(np.float32)


def _weighted_sum(array: NDArray, axis: int, indices: NDArray, weights: NDArray) -> NDArray:
    """Sum of the slices of `array` at `indices` along `axis`, times `weights`."""
    if indices.shape[1] == 1:
        index = indices[:, 0]
        if np.array_equal(index, np.arange(array.shape[axis])):
            return array
        return array.take(index, axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    total: NDArray = np.zeros(1, np.float32)
    for i in range(indices.shape[1]):
        part = array.take(indices[:, i], axis).astype(np.float32, copy=False)
        weighted = part * weights[:, i].reshape(shape)
        total = weighted if i == 0 else np.add(total, weighted, out=total)
    return total
