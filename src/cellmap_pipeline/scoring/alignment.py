"""Placement of a submitted array on a crop's grid, as the official evaluator does it.

Method: cellmap-segmentation-challenge, utils.matched_crop (2026-06-30). It resamples about the
array's outer edges, floors its translation to the target's voxels, and fills with background.
Scores depend on this placement. It is not the exact geometric relation of two grids: for that see
`io.resampling`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from skimage.transform import rescale

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.formats.models import parse_numbers
from cellmap_pipeline.scoring.slabs import (
    ArrayLike,
    PlacedView,
    full_box,
    is_fortran,
    slab_boxes,
)

# The evaluator's limits. An array larger than MAX_UNSPLIT_BYTES in float32 is resampled in
# independent blocks of BLOCK_SIDE³ voxels.
MAX_SIZE_RATIO = 16**3
MAX_UNSPLIT_BYTES = 500 * 2**20
BLOCK_SIDE = int((100 * 2**20 / 4) ** (1 / 3))

SEMANTIC_THRESHOLD = 0.5
# 64 GiB in float64, more than any evaluator will have for one label.
MAX_RESAMPLED_VOXELS = 2**33
# A semantic label that is upsampled to more voxels is interpolated in slabs.
MAX_UPSAMPLED_VOXELS = 2**28

# Attribute names that the evaluator accepts, in its order of precedence.
VOXEL_SIZE_NAMES = ("voxel_size", "resolution", "scale")
TRANSLATION_NAMES = ("translation", "offset")

Vector = tuple[float, ...]


def submitted_grid(attributes: Mapping[str, Any]) -> tuple[Vector | None, Vector | None]:
    """Return the voxel size and translation that the evaluator takes from an array's attributes.

    Raises
    ------
    ValueError
        They are not lists of numbers.
    """
    return _vector(attributes, VOXEL_SIZE_NAMES), _vector(attributes, TRANSLATION_NAMES)


def will_resample(shape: Sequence[int], attributes: Mapping[str, Any], target: Grid) -> bool:
    """Whether the evaluator resamples an array; False also for arrays at which it would stop."""
    try:
        voxel_size, _ = submitted_grid(attributes)
        return _scale(shape, voxel_size, target) is not None
    except (ValueError, TypeError):
        return False


def check_placeable(shape: Sequence[int], attributes: Mapping[str, Any], target: Grid) -> None:
    """Check the metadata of an array for everything at which the evaluator would stop.

    Raises
    ------
    ValueError, TypeError
        The evaluator would stop at the array.
    """
    if len(shape) != 3:
        raise ValueError(f"an array has three axes (z, y, x), not the shape {list(shape)}")
    size = math.prod(shape)
    if size > MAX_SIZE_RATIO * target.size:
        raise ValueError(
            f"the array has {size / target.size:.0f} times the crop's voxels; the evaluator stops "
            f"above {MAX_SIZE_RATIO}: resample it to the crop's voxel size"
        )
    if size > max(MAX_RESAMPLED_VOXELS, target.size):
        raise ValueError(
            f"the array has {size / 1e9:.1f} billion voxels: resample it to the crop's voxel size"
        )
    voxel_size, translation = submitted_grid(attributes)
    scale = _scale(shape, voxel_size, target)
    if scale is not None:
        if not all(math.isfinite(s) and s > 0 for s in scale):
            raise ValueError(f"the voxel size is {voxel_size}, but must be above 0 on each axis")
        if 0 in shape:
            raise ValueError(f"the shape is {list(shape)}: an empty array cannot be resampled")
        if math.prod(_rescaled_shape(shape, scale)) > MAX_RESAMPLED_VOXELS:
            raise ValueError(
                f"the voxel size is {voxel_size} nm, so that the array would have to be resampled "
                f"to more than {MAX_RESAMPLED_VOXELS / 1e9:.1f} billion voxels: correct it"
            )
    if translation is not None:
        _offset(translation, target)


def safe_translation(grid: Grid) -> Vector:
    """Translation to write for an array on `grid`, so that the evaluator scores it there.

    It is the grid's own, unless the evaluator's rounding would shift such an array by a voxel: then
    one millionth of a voxel is added.
    """
    return tuple(
        t + 1e-6 * v if shift else t
        for t, v, shift in zip(
            grid.translation, grid.voxel_size, _offset(grid.translation, grid), strict=True
        )
    )


def matches_grid(attributes: Mapping[str, Any], target: Grid) -> tuple[bool, bool]:
    """Whether the voxel size and the translation of an array match the target's.

    The translation matches only if the evaluator, with its rounding, also places the array there.

    Parameters
    ----------
    attributes
        Attributes that passed `check_placeable`.
    """
    voxel_size, translation = submitted_grid(attributes)
    same_size = voxel_size is not None and bool(np.allclose(voxel_size[-3:], target.voxel_size))
    if translation is None:
        return same_size, False
    close = np.allclose(translation[-3:], target.translation, rtol=1e-9, atol=1e-3)
    return same_size, bool(close) and not any(_offset(translation, target))


def align(
    array: ArrayLike | NDArray[Any],
    voxel_size: Sequence[float] | None,
    translation: Sequence[float] | None,
    target: Grid,
    instance: bool,
) -> NDArray[Any]:
    """Like `aligned_view`, but return the whole array in memory."""
    view = aligned_view(array, voxel_size, translation, target, instance)
    return np.asarray(view[full_box(view.shape)])


def aligned_view(
    array: ArrayLike | NDArray[Any],
    voxel_size: Sequence[float] | None,
    translation: Sequence[float] | None,
    target: Grid,
    instance: bool,
) -> ArrayLike:
    """Return the array that the evaluator scores when `array` is submitted for a crop on `target`.

    It is read lazily; only a resampled array is kept in memory.

    Parameters
    ----------
    array
        (z, y, x) ids, mask or probabilities. An array with another voxel size is resampled: ids by
        nearest neighbor, semantic labels linearly and then thresholded above 0.5.
    voxel_size, translation
        nm, z, y, x; None if the array's attributes lack them. Without a voxel size the array is
        centered on the target; without a translation its first voxel is the target's.
    instance
        Whether the voxels are ids.

    Returns
    -------
    Array of the target's shape; bool if a semantic label was resampled, else of the array's type.

    Raises
    ------
    ValueError
        The array does not have three axes, or is too large for the evaluator.
    """
    attributes = {VOXEL_SIZE_NAMES[0]: voxel_size, TRANSLATION_NAMES[0]: translation}
    check_placeable(array.shape, attributes, target)
    scale = _scale(array.shape, voxel_size, target)
    image: ArrayLike = array
    if scale is not None:
        if _is_large(array.shape):
            image = _rescale_blocks(array, scale, instance)
        else:
            voxels = np.asarray(array[full_box(array.shape)])
            if instance:
                image = _rescale(voxels, scale, instance)
            elif _is_upsampled_in_slabs(voxels.shape, scale):
                image = _upsample_in_slabs(voxels, scale)
            else:
                image = _rescale(voxels, scale, instance) > SEMANTIC_THRESHOLD
    elif voxel_size is None and tuple(array.shape) != target.shape:
        image = _centered(image, target.shape)
    offset = (0, 0, 0) if translation is None else _offset(translation, target)
    if tuple(image.shape) == target.shape and not any(offset):
        return image
    return PlacedView(image, offset, target.shape)


def _scale(shape: Sequence[int], voxel_size: Sequence[float] | None, target: Grid) -> Vector | None:
    """Target voxels per voxel of the array, or None if it is not resampled."""
    if voxel_size is not None:
        own = np.asarray(voxel_size, np.float64)[-3:]
        if np.allclose(own, target.voxel_size):
            return None
        return tuple(own / np.asarray(target.voxel_size))
    ratio = np.asarray(shape) / np.asarray(target.shape)
    if not _is_large(shape) or np.any(ratio < 1) or np.allclose(ratio, 1):
        return None
    return tuple(1 / ratio)


def _is_large(shape: Sequence[int]) -> bool:
    return math.prod(shape) * 4 > MAX_UNSPLIT_BYTES


def _rescaled_shape(shape: Sequence[int], scale: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(n * s)) for n, s in zip(shape, scale, strict=True))


def _is_upsampled_in_slabs(shape: Sequence[int], scale: Sequence[float]) -> bool:
    """Whether a semantic label is upsampled to more voxels than can be kept in float64."""
    return min(scale) >= 1 and math.prod(_rescaled_shape(shape, scale)) > MAX_UPSAMPLED_VOXELS


def _upsample_in_slabs(image: NDArray[Any], scale: Sequence[float]) -> NDArray[np.bool_]:
    """Rescale a semantic label and threshold it, like `_rescale`, but slab by slab."""
    single = image.dtype in (bool, np.float16, np.float32)
    image = image.astype(np.float32 if single else np.float64)
    shape = _rescaled_shape(image.shape, scale)
    low, high = image.min(), image.max()
    positions = [
        (np.arange(n) + 0.5) * (own / n) - 0.5 for own, n in zip(image.shape, shape, strict=True)
    ]
    result = np.zeros(shape, bool)
    for box in slab_boxes(result):
        grid = np.meshgrid(positions[0][box[0]], positions[1], positions[2], indexing="ij")
        values = map_coordinates(
            image, grid, order=1, mode="grid-constant", output=image.dtype, prefilter=False
        )
        result[box] = np.clip(values, low, high) > SEMANTIC_THRESHOLD
    return result


def _rescale(image: NDArray[Any], scale: Sequence[float], instance: bool) -> NDArray[Any]:
    if instance:
        nearest = rescale(image, scale, order=0, mode="constant", preserve_range=True)
        return nearest.astype(image.dtype)
    if image.dtype == bool:
        image = image.astype(np.float32)
    return rescale(image, scale, order=1, mode="constant", preserve_range=True)


def _rescale_blocks(
    array: ArrayLike | NDArray[Any], scale: Sequence[float], instance: bool
) -> NDArray[Any]:
    shape = _rescaled_shape(array.shape, scale)
    result = np.zeros(shape, array.dtype if instance else np.float32)
    for start in itertools.product(*(range(0, n, BLOCK_SIDE) for n in array.shape)):
        stop = [min(a + BLOCK_SIDE, n) for a, n in zip(start, array.shape, strict=True)]
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        block = _rescale(np.asarray(array[z, y, x]), scale, instance)
        first = [int(a * s) for a, s in zip(start, scale, strict=True)]
        count = [min(a + n, last) - a for a, n, last in zip(first, block.shape, shape, strict=True)]
        box = tuple(slice(a, a + n) for a, n in zip(first, count, strict=True))
        result[box] = block[tuple(slice(0, n) for n in count)]
    return result if instance else result > SEMANTIC_THRESHOLD


def _centered(array: ArrayLike, shape: tuple[int, ...]) -> ArrayLike:
    """Pad an array with 0 and crop it to `shape` about its center."""
    sides = list(zip(array.shape, shape, strict=True))
    offset = tuple((w - n) // 2 if n < w else -((n - w) // 2) for n, w in sides)
    # The evaluator's padding keeps the memory order, its cropping does not.
    keeps_order = all(n <= w for n, w in sides)
    return PlacedView(array, offset, shape, "F" if keeps_order and is_fortran(array) else "C")


def _offset(translation: Sequence[float], target: Grid) -> tuple[int, ...]:
    """Target voxel at which the evaluator puts the array's first voxel.

    Both floor divisions are the evaluator's, including their rounding errors.

    Raises
    ------
    ValueError
        The translation is not a position.
    """
    size, origin = np.asarray(target.voxel_size), np.asarray(target.translation)
    snapped = (np.asarray(translation, np.float64)[-3:] // size) * size
    voxels = (np.abs(snapped - origin) // size) * np.sign(snapped - origin)
    if voxels.shape != (3,) or not np.isfinite(voxels).all():
        raise ValueError(f"the translation is {list(translation)}, but must be a position z, y, x")
    return tuple(int(v) for v in voxels)


def _vector(attributes: Mapping[str, Any], names: Sequence[str]) -> Vector | None:
    for name in names:
        if name in attributes:
            value = attributes[name]
            return None if value is None else tuple(parse_numbers(value))
    return None
