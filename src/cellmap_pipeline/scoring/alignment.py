"""How the official evaluator places a submitted array on a crop's grid before it scores it.

Method: cellmap-segmentation-challenge, utils.matched_crop (2026-06-30). It resamples about the
array's outer edges, floors its translation to the target's voxels, and fills with background.
That is what a score depends on, not how grids truly lie to each other: for that see `resampling`.
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
from cellmap_pipeline.scoring.slabs import Placed, Volume, is_fortran, slab_boxes, whole

# The evaluator's limits. An array that would take more than WHOLE_BYTES in float32 is resampled in
# blocks of BLOCK³ voxels, each on its own.
MAX_SIZE_RATIO = 16**3
WHOLE_BYTES = 500 * 2**20
BLOCK = int((100 * 2**20 / 4) ** (1 / 3))

SEMANTIC_THRESHOLD = 0.5
# As float64 that is 64 GiB, which no evaluator will have for one label.
MAX_RESAMPLED = 2**33
# A semantic label that grows to more voxels is interpolated in slabs.
ENLARGED_VOXELS = 2**28

# Attribute names that the evaluator takes, in its order.
VOXEL_SIZE_NAMES = ("voxel_size", "resolution", "scale")
TRANSLATION_NAMES = ("translation", "offset")

Vector = tuple[float, ...]


def submitted_grid(attributes: Mapping[str, Any]) -> tuple[Vector | None, Vector | None]:
    """Voxel size and translation that the evaluator takes from an array's attributes.

    Raises
    ------
    ValueError, TypeError
        They are not numbers.
    """
    return _vector(attributes, VOXEL_SIZE_NAMES), _vector(attributes, TRANSLATION_NAMES)


def will_resample(shape: Sequence[int], attributes: Mapping[str, Any], target: Grid) -> bool:
    """Whether the evaluator resamples an array; False also where it would stop at it."""
    try:
        voxel_size, _ = submitted_grid(attributes)
        return _scale(shape, voxel_size, target) is not None
    except (ValueError, TypeError):
        return False


def check_placeable(shape: Sequence[int], attributes: Mapping[str, Any], target: Grid) -> None:
    """Hold what is known of an array without its voxels against what the evaluator stops at.

    Raises
    ------
    ValueError, TypeError
        Why it would stop.
    """
    if len(shape) != 3:
        raise ValueError(f"an array has three axes (z, y, x), not the shape {list(shape)}")
    size = math.prod(shape)
    if size > MAX_SIZE_RATIO * target.size:
        raise ValueError(
            f"the array has {size / target.size:.0f} times the crop's voxels; the evaluator stops "
            f"above {MAX_SIZE_RATIO}: resample it to the crop's voxel size"
        )
    voxel_size, translation = submitted_grid(attributes)
    scale = _scale(shape, voxel_size, target)
    if scale is not None:
        if not all(math.isfinite(s) and s > 0 for s in scale):
            raise ValueError(f"the voxel size is {voxel_size}, but must be above 0 on each axis")
        if 0 in shape:
            raise ValueError(f"the shape is {list(shape)}: an empty array cannot be resampled")
        if math.prod(_rescaled_shape(shape, scale)) > MAX_RESAMPLED:
            raise ValueError(
                f"the voxel size is {voxel_size} nm, so that the array would have to be resampled "
                f"to more than {MAX_RESAMPLED / 1e9:.1f} billion voxels: correct it"
            )
    if translation is not None:
        _offset(translation, target)


def safe_translation(grid: Grid) -> Vector:
    """The translation to write for an array that lies on `grid`, so that it is scored there.

    The grid's own, but where the evaluator's rounding would put an array with it a voxel off: then
    as much more as one millionth of a voxel.
    """
    return tuple(
        t + 1e-6 * v if off else t
        for t, v, off in zip(
            grid.translation, grid.voxel_size, _offset(grid.translation, grid), strict=True
        )
    )


def lies_on(attributes: Mapping[str, Any], target: Grid) -> tuple[bool, bool]:
    """Whether an array's voxel size and its translation are the target's, for the evaluator, too.

    Parameters
    ----------
    attributes
        That passed `check_placeable`.
    """
    voxel_size, translation = submitted_grid(attributes)
    same_size = voxel_size is not None and bool(np.allclose(voxel_size[-3:], target.voxel_size))
    if translation is None:
        return same_size, False
    close = np.allclose(translation[-3:], target.translation, rtol=1e-9, atol=1e-3)
    return same_size, bool(close) and not any(_offset(translation, target))


def align(
    array: Volume | NDArray[Any],
    voxel_size: Sequence[float] | None,
    translation: Sequence[float] | None,
    target: Grid,
    instance: bool,
) -> NDArray[Any]:
    """`aligned`, read whole."""
    volume = aligned(array, voxel_size, translation, target, instance)
    return np.asarray(volume[whole(volume.shape)])


def aligned(
    array: Volume | NDArray[Any],
    voxel_size: Sequence[float] | None,
    translation: Sequence[float] | None,
    target: Grid,
    instance: bool,
) -> Volume:
    """What the evaluator scores when `array` is submitted for a crop on `target`.

    It is read where it is asked for; only what is resampled is kept in memory.

    Parameters
    ----------
    array
        (z, y, x), ids or a mask or probabilities. Another voxel size is resampled: ids to the
        nearest voxel, semantic labels linearly and then above 0.5.
    voxel_size, translation
        nm, z, y, x; None where the array's attributes lack them: then it is centred on the target,
        or its first voxel put on the target's.
    instance
        Whether the voxels are ids.

    Returns
    -------
    Of the target's shape; bool where a semantic label was resampled, else of the array's type.

    Raises
    ------
    ValueError
        The array has other than three axes, or is too large for the evaluator.
    """
    named = {VOXEL_SIZE_NAMES[0]: voxel_size, TRANSLATION_NAMES[0]: translation}
    check_placeable(array.shape, named, target)
    scale = _scale(array.shape, voxel_size, target)
    image: Volume = array
    if scale is not None:
        if _is_large(array.shape):
            image = _rescale_blocks(array, scale, instance)
        else:
            voxels = np.asarray(array[whole(array.shape)])
            if instance:
                image = _rescale(voxels, scale, instance)
            elif _is_enlarged(voxels.shape, scale):
                image = _enlarge(voxels, scale)
            else:
                image = _rescale(voxels, scale, instance) > SEMANTIC_THRESHOLD
    elif voxel_size is None and tuple(array.shape) != target.shape:
        image = _centred(image, target.shape)
    offset = (0, 0, 0) if translation is None else _offset(translation, target)
    return _placed(image, offset, target.shape)


def _scale(shape: Sequence[int], voxel_size: Sequence[float] | None, target: Grid) -> Vector | None:
    """Target voxels per voxel of the array, or None where it is not to be resampled."""
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
    return math.prod(shape) * 4 > WHOLE_BYTES


def _rescaled_shape(shape: Sequence[int], scale: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(n * s)) for n, s in zip(shape, scale, strict=True))


def _is_enlarged(shape: Sequence[int], scale: Sequence[float]) -> bool:
    """Whether a semantic label grows too large to be had in float64."""
    return min(scale) >= 1 and math.prod(_rescaled_shape(shape, scale)) > ENLARGED_VOXELS


def _enlarge(image: NDArray[Any], scale: Sequence[float]) -> NDArray[np.bool_]:
    """What `_rescale` makes of a semantic label, above the threshold, in slabs."""
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
    array: Volume | NDArray[Any], scale: Sequence[float], instance: bool
) -> NDArray[Any]:
    shape = _rescaled_shape(array.shape, scale)
    result = np.zeros(shape, array.dtype if instance else np.float32)
    for start in itertools.product(*(range(0, n, BLOCK) for n in array.shape)):
        stop = [min(a + BLOCK, n) for a, n in zip(start, array.shape, strict=True)]
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        part = np.asarray(array[z, y, x])
        part = _rescale(part, scale, instance)
        first = [int(a * s) for a, s in zip(start, scale, strict=True)]
        count = [min(a + n, last) - a for a, n, last in zip(first, part.shape, shape, strict=True)]
        into = tuple(slice(a, a + n) for a, n in zip(first, count, strict=True))
        result[into] = part[tuple(slice(0, n) for n in count)]
    return result if instance else result > SEMANTIC_THRESHOLD


def _centred(volume: Volume, shape: tuple[int, ...]) -> Volume:
    """`volume` padded with 0 and cropped to `shape` about its centre."""
    sides = list(zip(volume.shape, shape, strict=True))
    offset = tuple((w - n) // 2 if n < w else -((n - w) // 2) for n, w in sides)
    # The evaluator's padding keeps the order of memory, its cropping does not.
    kept = is_fortran(volume) and all(n <= w for n, w in sides)
    return Placed(volume, offset, shape, "F" if kept else "C")


def _offset(translation: Sequence[float], target: Grid) -> tuple[int, ...]:
    """Target voxel at which the evaluator puts the array's first voxel.

    Both floor divisions are the evaluator's, rounding errors included.

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
            return None if value is None else tuple(float(v) for v in value)
    return None


def _placed(volume: Volume, offset: tuple[int, ...], shape: tuple[int, ...]) -> Volume:
    if tuple(volume.shape) == shape and not any(offset):
        return volume
    return Placed(volume, offset, shape)
