"""Random augmentation of training patches, consistent between raw and labels.

The transform of a patch is drawn first (`draw_transform`), so that no more is read than it needs,
and applied on the device that trains (`transform_patch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import cos, isclose, radians, sin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.config.augmentation import (
    ROUNDING_VOXELS,
    Augmentation,
    Rotation,
)
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.patches.augmentation.intensity import (
    IntensityTransform,
    draw_factor,
    draw_intensity,
    transform_intensity,
)
from cellmap_pipeline.patches.augmentation.resampling import orient, resample
from cellmap_pipeline.patches.augmentation.section_faults import happens
from cellmap_pipeline.patches.normalization import BY_RANGE, Normalization

SAME_AXES = (0, 1, 2)
NO_FLIPS = (False, False, False)


@dataclass(frozen=True)
class PatchTransform:
    """The augmentation of one patch; its steps are applied in the order of the attributes.

    Attributes
    ----------
    rotation
        Rotation matrix (3, 3) in world space. None: no rotation.
    scale
        Factor of lengths: with the rotation, the result at p is the input at scale · rotation · p,
        counted from the center, so objects get smaller if it is above 1.
    axes, flips
        Order and flips of the axes, as for `orient`.
    intensity
        Changes of raw alone.
    """

    rotation: NDArray[np.float64] | None = None
    scale: float = 1.0
    axes: tuple[int, ...] = SAME_AXES
    flips: tuple[bool, ...] = NO_FLIPS
    intensity: IntensityTransform = IntensityTransform()

    @property
    def linear(self) -> NDArray[np.float64] | None:
        """Matrix (3, 3) of rotation and scale in world space; None: the input is not resampled."""
        if self.rotation is None and self.scale == 1:
            return None
        return self.scale * (np.eye(3) if self.rotation is None else self.rotation)


def draw_transform(
    options: Augmentation, rng: np.random.Generator, patch_size: Shape, voxel_size: Vector
) -> PatchTransform:
    """Draw the augmentation of one patch within the limits of `options`.

    Flips, transposes and rotations by 90° move voxels exactly, and axes are only exchanged where
    both patch size and voxel size agree. `rng` is the only source of randomness.
    """
    rotation = _draw_rotation(options.rotate, rng)
    scale = draw_factor(options.scaling, rng)
    axes, flips = _draw_symmetry(options, rng, patch_size, voxel_size)
    intensity = draw_intensity(options, rng, patch_size, voxel_size)
    return PatchTransform(rotation, scale, axes, flips, intensity)


def shape_to_read(transform: PatchTransform, patch_size: Shape, voxel_size: Vector) -> Shape:
    """Shape of the smallest box, with the patch's center, that the result is interpolated from.

    It differs from `patch_size` by even numbers, and may be smaller.
    """
    linear = transform.linear
    if linear is None:
        return patch_size
    half = (np.array(patch_size) - 1) / 2 * voxel_size
    reach = np.abs(linear) @ half
    margin = np.ceil((reach - half) / voxel_size - ROUNDING_VOXELS).astype(int)
    z, y, x = (np.array(patch_size) + 2 * margin).tolist()
    return z, y, x


def transform_patch(
    raw: Tensor,
    codes: Tensor,
    transform: PatchTransform,
    patch_size: Shape,
    voxel_size: Vector,
    out: Tensor,
    normalization: Normalization = BY_RANGE,
) -> Tensor:
    """Apply `transform` to a patch, and standardize its raw (`patches.normalization`).

    Parameters
    ----------
    raw
        (z, y, x), uint8 or float in 0..1, of the shape returned by `shape_to_read`.
    codes
        (z, y, x), the codes of the same voxels; only moved, rotated and scaled.
    transform
        The augmentation to apply.
    patch_size
        Shape of the result, in voxels.
    voxel_size
        Voxel size in nm.
    out
        (z, y, x) float32, receives the transformed raw, standardized. Voxels from outside the
        input get the nearest raw.
    normalization
        Normalization of the volume that the patch was read from.

    Returns
    -------
    codes
        (z, y, x). Voxels from outside the input get 0.
    """
    linear = transform.linear
    if linear is not None:
        raw, codes = resample(_unit_range(raw), codes, linear, patch_size, voxel_size)
    raw = orient(raw, transform.axes, transform.flips)
    if raw.dtype == torch.uint8:
        torch.div(raw, 255, out=out)
    else:
        out.copy_(raw)
    normalization.to_window(out)
    transform_intensity(out, transform.intensity, normalization.window_to_input)
    normalization.standardize_window(out)
    return orient(codes, transform.axes, transform.flips)


def random_rotation(degrees: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the matrix (3, 3) of a rotation by `degrees` about an axis that is drawn."""
    axis = rng.standard_normal(3)
    a, b, c = axis / np.linalg.norm(axis)
    angle = radians(degrees)
    # Rodrigues' formula.
    cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    return np.eye(3) + sin(angle) * cross + (1 - cos(angle)) * cross @ cross


def _draw_rotation(rotate: Rotation, rng: np.random.Generator) -> NDArray[np.float64] | None:
    if not happens(rotate, rng):
        return None
    return random_rotation(float(rng.uniform(*rotate.range)), rng)


def _draw_symmetry(
    options: Augmentation, rng: np.random.Generator, shape: Shape, voxel_size: Vector
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Draw axes and flips for `orient`."""
    orders = [
        order
        for order in permutations(range(3))
        if all(shape[a] == shape[i] for i, a in enumerate(order))
        and all(isclose(voxel_size[a], voxel_size[i]) for i, a in enumerate(order))
    ]
    axes: tuple[int, ...] = SAME_AXES
    flips: tuple[bool, ...] = NO_FLIPS
    if options.flip:
        flips = _draw_flips(rng)
    if options.transpose:
        axes, flips = _compose(axes, flips, orders[rng.integers(len(orders))], NO_FLIPS)
    if options.rotate90:
        order, drawn = orders[rng.integers(len(orders))], _draw_flips(rng)
        mirrored = bool(np.linalg.det(np.eye(3)[list(order)]) * (-1) ** sum(drawn) < 0)
        axes, flips = _compose(axes, flips, order, (drawn[0] ^ mirrored, *drawn[1:]))
    return axes, flips


def _compose(
    axes: Sequence[int], flips: Sequence[bool], next_axes: Sequence[int], next_flips: Sequence[bool]
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Combine two orientations, applied one after the other, into one."""
    return tuple(axes[a] for a in next_axes), tuple(
        flip ^ flips[a] for flip, a in zip(next_flips, next_axes, strict=True)
    )


def _draw_flips(rng: np.random.Generator) -> tuple[bool, ...]:
    return tuple((rng.random(3) < 0.5).tolist())


def _unit_range(raw: Tensor) -> Tensor:
    """Convert raw to float32 in 0..1."""
    return raw.float().div_(255) if raw.dtype == torch.uint8 else raw
