"""Bringing voxels from one grid onto another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.geometry import TOLERANCE_VOXELS, Grid


def resample(array: NDArray, source: Grid, target: Grid) -> NDArray[np.float32]:
    """Intensities or probabilities of `array` on the voxels of `target`.

    Axis by axis: the mean over the target's voxel where that is coarser than the source's
    (weighted by overlap, so nothing aliases), linear interpolation where it is finer. Beyond the
    source the outermost voxel goes on.

    Parameters
    ----------
    array
        (z, y, x), any number type, on `source`.

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
        indices, weights = taps(source.shape[axis], start[axis], step, target.shape[axis])
        result = _weigh(result, axis, indices, weights)
    return result.astype(np.float32, copy=False)


def nearest_index(start: float, step: float, n: int) -> NDArray[np.int64]:
    """Index of the voxel that holds each of the positions `start + step · (0 … n-1)`.

    A position on the border of two voxels belongs to the lower one.
    """
    position = start + step * np.arange(n)
    return np.ceil(position - 0.5 - TOLERANCE_VOXELS / 2).astype(np.int64)


def taps(n: int, start: float, step: float, n_out: int) -> tuple[NDArray, NDArray]:
    """Source indices and weights, (n_out, taps) each, that make each target voxel of an axis."""
    centre = start + step * np.arange(n_out)
    if step <= 1 + TOLERANCE_VOXELS:
        centre = centre.clip(0, n - 1)
        lower = np.floor(centre + TOLERANCE_VOXELS / 2).astype(np.int64)
        fraction = (centre - lower).clip(0, 1)
        if np.all(fraction < TOLERANCE_VOXELS):
            return lower[:, None], np.ones((n_out, 1), np.float32)
        indices = np.stack([lower, np.minimum(lower + 1, n - 1)], axis=1)
        return indices, np.stack([1 - fraction, fraction], axis=1).astype(np.float32)
    # Voxel i of the source fills i ± ½; a target voxel fills its centre ± step / 2.
    low, high = centre - step / 2 + 0.5, centre + step / 2 + 0.5
    first = np.floor(low + TOLERANCE_VOXELS / 2).astype(np.int64)
    taps = int(np.ceil(step - TOLERANCE_VOXELS)) + 1
    indices = first[:, None] + np.arange(taps)
    overlap = np.minimum(indices + 1, high[:, None]) - np.maximum(indices, low[:, None])
    overlap = np.where(overlap < TOLERANCE_VOXELS, 0, overlap)
    weights = overlap / overlap.sum(axis=1, keepdims=True)
    used = weights.any(axis=0)
    return indices[:, used].clip(0, n - 1), weights[:, used].astype(np.float32)


def _weigh(array: NDArray, axis: int, indices: NDArray, weights: NDArray) -> NDArray:
    """Sum over taps of `weights` times the slices of `array` at `indices` along `axis`."""
    if indices.shape[1] == 1:
        index = indices[:, 0]
        if np.array_equal(index, np.arange(array.shape[axis])):
            return array
        return array.take(index, axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    total: NDArray = np.zeros(1, np.float32)
    for tap in range(indices.shape[1]):
        part = array.take(indices[:, tap], axis).astype(np.float32, copy=False)
        weighed = part * weights[:, tap].reshape(shape)
        total = weighed if tap == 0 else np.add(total, weighed, out=total)
    return total
