"""Random augmentation of training patches, consistent between raw and labels.

The transform of a patch is drawn first (`draw_transform`), so that no more is read than it needs,
and applied on the device that trains (`transform_patch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import cos, isclose, radians, sin

import numpy as np
import torch
from monai.networks.layers.convutils import gaussian_1d
from monai.networks.layers.simplelayers import separable_filtering
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from cellmap_pipeline.config.sections import Augmentation
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.patches.normalization import BY_RANGE, Normalization

# Rotation blurs raw by interpolation, but prediction gets sharp raw: so only some are rotated.
ROTATED_SHARE = 0.5
TILE_SIDE_VOXELS = 16
SAME_AXES = (0, 1, 2)
NO_FLIPS = (False, False, False)


@dataclass(frozen=True)
class PatchTransform:
    """The augmentation of one patch; its steps are applied in the order of the attributes.

    Attributes
    ----------
    rotation
        Rotation matrix (3, 3) in world space: the result at p is the input at rotation · p. None:
        no rotation.
    axes, flips
        Order and flips of the axes, as for `orient`.
    contrast
        Contrast factor around the patch's mean.
    brightness
        Offset added to raw in 0..1 (of the window, see `patches.normalization`).
    gamma
        Exponent.
    blur
        σ of a Gaussian, in voxels.
    noise
        σ of added Gaussian noise.
    seed
        Seed of the noise.
    """

    rotation: NDArray[np.float64] | None = None
    axes: tuple[int, ...] = SAME_AXES
    flips: tuple[bool, ...] = NO_FLIPS
    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    seed: int = 0


def draw_transform(
    options: Augmentation, rng: np.random.Generator, patch_size: Shape, voxel_size: Vector
) -> PatchTransform:
    """Draw the augmentation of one patch within the limits of `options`.

    Flips, transposes and rotations by 90° move voxels exactly, and axes are only exchanged where
    both patch size and voxel size agree. `rng` is the only source of randomness.
    """
    rotation = None
    if options.rotate and rng.random() < ROTATED_SHARE:
        rotation = random_rotation(options.rotate, rng)
    axes, flips = _draw_symmetry(options, rng, patch_size, voxel_size)
    contrast, gamma = options.contrast, options.gamma
    return PatchTransform(
        rotation,
        axes,
        flips,
        contrast=float(rng.uniform(1 - contrast, 1 + contrast)),
        brightness=float(rng.uniform(-contrast, contrast) / 2),
        # Equally likely to be above and below 1.
        gamma=float((1 + gamma) ** rng.uniform(-1, 1)),
        blur=float(rng.uniform(0, options.blur)),
        noise=float(rng.uniform(0, options.noise)),
        seed=int(rng.integers(2**63)),
    )


def shape_to_read(transform: PatchTransform, patch_size: Shape, voxel_size: Vector) -> Shape:
    """Shape to read for a patch; a rotation needs a margin, equally wide on opposite sides."""
    if transform.rotation is None:
        return patch_size
    half = (np.array(patch_size) - 1) / 2 * voxel_size
    reach = np.abs(transform.rotation) @ half
    margin = np.ceil((reach - half) / voxel_size - 1e-6).clip(0).astype(int)
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
        (z, y, x), the codes of the same voxels.
    transform
        The augmentation to apply.
    patch_size
        Shape of the result, in voxels.
    voxel_size
        Voxel size in nm.
    out
        (z, y, x) float32, receives the transformed raw, standardized. Voxels that a rotation takes
        from outside the input get the nearest raw.
    normalization
        Normalization of the volume that the patch was read from.

    Returns
    -------
    codes
        (z, y, x). Voxels that a rotation takes from outside the input get 0.
    """
    if transform.rotation is not None:
        raw, codes = rotate(_unit_range(raw), codes, transform.rotation, patch_size, voxel_size)
    raw = orient(raw, transform.axes, transform.flips)
    if raw.dtype == torch.uint8:
        torch.div(raw, 255, out=out)
    else:
        out.copy_(raw)
    normalization.to_window(out)
    transform_intensity(out, transform)
    normalization.standardize_window(out)
    return orient(codes, transform.axes, transform.flips)


def random_rotation(degrees: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the matrix (3, 3) of a rotation about any axis by up to `degrees` either way."""
    axis = rng.standard_normal(3)
    a, b, c = axis / np.linalg.norm(axis)
    angle = radians(rng.uniform(-degrees, degrees))
    # Rodrigues' formula.
    cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    return np.eye(3) + sin(angle) * cross + (1 - cos(angle)) * cross @ cross


def rotate(
    raw: Tensor,
    codes: Tensor,
    rotation: NDArray[np.float64],
    patch_size: Shape,
    voxel_size: Vector,
) -> tuple[Tensor, Tensor]:
    """Rotate about the patch's center in world space and keep `patch_size` voxels around it.

    Returns
    -------
    raw
        Raw, interpolated linearly; outside the input, the nearest voxel.
    codes
        Codes of the nearest voxels; outside the input, 0.
    """
    matrix = rotation * voxel_size / np.array(voxel_size)[:, None]
    offset = (np.array(raw.shape) - 1) / 2 - matrix @ ((np.array(patch_size) - 1) / 2)
    positions = _sample_positions(matrix, offset, patch_size, raw.device)
    scaled = [
        position * (2 / max(1, n - 1)) - 1 for position, n in zip(positions, raw.shape, strict=True)
    ]
    # Torch expects coordinates in the order x, y, z.
    rotated = grid_sample(
        raw[None, None], torch.stack(scaled[::-1], dim=-1)[None],
        mode="bilinear", padding_mode="border", align_corners=True,
    )[0, 0]  # fmt: skip
    flat = torch.zeros(patch_size, dtype=torch.int64, device=codes.device)
    inside = torch.ones(patch_size, dtype=torch.bool, device=codes.device)
    for position, n in zip(positions, codes.shape, strict=True):
        index = (position + 0.5).floor().int()
        inside &= (index >= 0) & (index < n)
        flat = flat * n + index
    nearest = codes.reshape(-1)[flat.where(inside, 0).reshape(-1)].reshape(patch_size)
    return rotated, nearest.where(inside, 0)


def orient(array: Tensor, axes: Sequence[int], flips: Sequence[bool]) -> Tensor:
    """Permute the axes of an array to the order `axes`, then flip those marked in `flips`."""
    if array.device.type != "cpu":
        return array.permute(*axes).flip([d for d, flip in enumerate(flips) if flip]).contiguous()
    view = array.numpy().transpose(*axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    return torch.from_numpy(_tiled_copy(view) if axes[2] == 0 else view.copy())


def transform_intensity(raw: Tensor, transform: PatchTransform) -> None:
    """Apply contrast and brightness, gamma, blur and noise in place, clipped to 0..1.

    `raw` is in units of the volume's window (`patches.normalization`).
    """
    if transform.contrast != 1 or transform.brightness:
        mean = raw.mean()
        raw.sub_(mean).mul_(transform.contrast).add_(mean + transform.brightness).clamp_(0, 1)
    if transform.gamma != 1:
        raw.pow_(transform.gamma)
    if transform.blur:
        kernel = gaussian_1d(torch.tensor(transform.blur), truncated=3, approx="sampled")
        kernels = [(kernel / kernel.sum()).to(raw)] * 3
        raw.copy_(separable_filtering(raw[None, None], kernels, mode="replicate")[0, 0])
    if transform.noise:
        generator = torch.Generator(raw.device).manual_seed(transform.seed)
        noise = torch.randn(raw.shape, generator=generator, device=raw.device)
        raw.add_(noise, alpha=transform.noise).clamp_(0, 1)


def _tiled_copy(view: NDArray) -> NDArray:
    """Make a contiguous copy in tiles that fit in the processor's cache.

    This is several times faster where neighbors along the last axis are far apart in memory.
    """
    copy = np.empty(view.shape, view.dtype)
    for start in product(*(range(0, n, TILE_SIDE_VOXELS) for n in view.shape)):
        tile = tuple(slice(s, s + TILE_SIDE_VOXELS) for s in start)
        copy[tile] = view[tile]
    return copy


def _unit_range(raw: Tensor) -> Tensor:
    """Convert raw to float32 in 0..1."""
    return raw.float().div_(255) if raw.dtype == torch.uint8 else raw


def _sample_positions(
    matrix: NDArray[np.float64], offset: NDArray[np.float64], shape: Shape, device: torch.device
) -> list[Tensor]:
    """Compute matrix · index + offset for each voxel of a box, float32, one tensor per axis."""
    z, y, x = (torch.arange(n, dtype=torch.float32, device=device) for n in shape)
    return [
        float(row[0]) * z[:, None, None] + float(row[1]) * y[:, None] + (float(row[2]) * x + shift)
        for row, shift in zip(matrix, offset.tolist(), strict=True)
    ]


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
