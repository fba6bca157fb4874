"""How the official evaluator places a submitted array on a crop's grid before it scores it.

Method: cellmap-segmentation-challenge, utils.matched_crop (2026-06-30). It resamples about the
array's outer edges, floors its translation to the target's voxels, and fills with background.
That is what a score depends on, not how grids truly lie to each other: for that see `resampling`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from skimage.transform import rescale

from cellmap_pipeline.geometry import Grid

# The evaluator's limits. An array that would take more than WHOLE_BYTES in float32 is resampled in
# blocks of BLOCK³ voxels, each on its own.
MAX_SIZE_RATIO = 16**3
WHOLE_BYTES = 500 * 2**20
BLOCK = int((100 * 2**20 / 4) ** (1 / 3))

SEMANTIC_THRESHOLD = 0.5


def align(
    array: zarr.Array | NDArray[Any],
    voxel_size: Sequence[float] | None,
    translation: Sequence[float] | None,
    target: Grid,
    instance: bool,
) -> NDArray[Any]:
    """What the evaluator scores when `array` is submitted for a crop on `target`.

    Parameters
    ----------
    array : (z, y, x), ids or a mask or probabilities. Another voxel size is resampled: ids to
        the nearest voxel, semantic labels linearly and then above 0.5.
    voxel_size, translation : nm, z, y, x; None where the array's attributes lack them: then it
        is centred on the target, or its first voxel put on the target's.
    instance : whether the voxels are ids.

    Returns
    -------
    (z, y, x) of the target's shape; bool where a semantic label was resampled, else of the
    array's type.

    Raises
    ------
    ValueError
        The array has other than three axes, or is too large for the evaluator.
    """
    if len(array.shape) != 3:
        raise ValueError(f"an array has three axes (z, y, x), not the shape {array.shape}")
    size = math.prod(array.shape)
    if size > MAX_SIZE_RATIO * target.size:
        raise ValueError(
            f"the array has {size / target.size:.0f} times the crop's voxels; the evaluator stops "
            f"above {MAX_SIZE_RATIO}: resample it to the crop's voxel size"
        )
    large = size * 4 > WHOLE_BYTES
    scale = _scale(array.shape, voxel_size, target, large)
    if scale is not None and large:
        image = _rescale_blocks(array, scale, instance)
    elif scale is not None:
        image = _rescale(np.asarray(array[:]), scale, instance)
        image = image if instance else image > SEMANTIC_THRESHOLD
    else:
        image = np.asarray(array[:])
        if voxel_size is None:
            image = _centred(image, target.shape)
    offset = (0, 0, 0) if translation is None else _offset(translation, target)
    return _placed(image, offset, target.shape)


def _scale(
    shape: Sequence[int], voxel_size: Sequence[float] | None, target: Grid, large: bool
) -> tuple[float, ...] | None:
    """Target voxels per voxel of the array, or None where it is not to be resampled."""
    if voxel_size is not None:
        own = np.asarray(voxel_size, np.float64)[-3:]
        if np.allclose(own, target.voxel_size):
            return None
        return tuple(own / np.asarray(target.voxel_size))
    ratio = np.asarray(shape) / np.asarray(target.shape)
    if not large or np.any(ratio < 1) or np.allclose(ratio, 1):
        return None
    return tuple(1 / ratio)


def _rescale(image: NDArray[Any], scale: Sequence[float], instance: bool) -> NDArray[Any]:
    if instance:
        nearest = rescale(image, scale, order=0, mode="constant", preserve_range=True)
        return nearest.astype(image.dtype)
    if image.dtype == bool:
        image = image.astype(np.float32)
    return rescale(image, scale, order=1, mode="constant", preserve_range=True)


def _rescale_blocks(
    array: zarr.Array | NDArray[Any], scale: Sequence[float], instance: bool
) -> NDArray[Any]:
    shape = [max(1, int(np.round(n * s))) for n, s in zip(array.shape, scale, strict=True)]
    result = np.zeros(shape, array.dtype if instance else np.float32)
    for start in itertools.product(*(range(0, n, BLOCK) for n in array.shape)):
        part = np.asarray(array[tuple(slice(a, a + BLOCK) for a in start)])
        part = _rescale(part, scale, instance)
        first = [int(a * s) for a, s in zip(start, scale, strict=True)]
        count = [min(a + n, stop) - a for a, n, stop in zip(first, part.shape, shape, strict=True)]
        into = tuple(slice(a, a + n) for a, n in zip(first, count, strict=True))
        result[into] = part[tuple(slice(0, n) for n in count)]
    return result if instance else result > SEMANTIC_THRESHOLD


def _centred(image: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """`image` padded with 0 and cropped to `shape` about its centre."""
    missing = [max(0, wanted - n) for n, wanted in zip(image.shape, shape, strict=True)]
    image = np.pad(image, [(m // 2, m - m // 2) for m in missing])
    first = [(n - wanted) // 2 for n, wanted in zip(image.shape, shape, strict=True)]
    return image[tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))]


def _offset(translation: Sequence[float], target: Grid) -> tuple[int, ...]:
    """Target voxel at which the evaluator puts the array's first voxel.

    Both floor divisions are the evaluator's, rounding errors included.
    """
    size, origin = np.asarray(target.voxel_size), np.asarray(target.translation)
    snapped = (np.asarray(translation, np.float64)[-3:] // size) * size
    whole = (np.abs(snapped - origin) // size) * np.sign(snapped - origin)
    return tuple(int(v) for v in whole)


def _placed(image: NDArray[Any], offset: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
    if image.shape == tuple(shape) and not any(offset):
        return image
    result = np.zeros(shape, image.dtype)
    source, into = [], []
    for first, own, wanted in zip(offset, image.shape, shape, strict=True):
        length = min(own - max(0, -first), wanted - max(0, first))
        if length <= 0:
            return result
        source.append(slice(max(0, -first), max(0, -first) + length))
        into.append(slice(max(0, first), max(0, first) + length))
    result[tuple(into)] = image[tuple(source)]
    return result
