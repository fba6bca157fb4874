"""Random changes of training patches, the same for raw and labels.

What is done to a patch is drawn beforehand (`draw_change`), so that just as much is read as it
takes, and done on the device that trains (`change_patch`).
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

from cellmap_pipeline.config.training import Augmentation
from cellmap_pipeline.geometry import Shape, Vector

# Linear interpolation softens raw, and prediction sees it sharp: so not every patch is rotated.
ROTATED = 0.5
TILE = 16
STAY = (0, 1, 2)
NO_FLIPS = (False, False, False)


@dataclass(frozen=True)
class Change:
    """What is done to a patch, in this order.

    Attributes
    ----------
    rotation
        (3, 3) in world space: the result at p is what was at rotation · p; None: none.
    axes, flips
        As `orient` takes them.
    contrast
        Factor around the patch's mean.
    brightness
        Added; raw is 0..1.
    gamma
        Exponent.
    blur
        σ of a Gaussian, voxels.
    noise
        σ of added Gaussian noise.
    seed
        Of the noise.
    """

    rotation: NDArray[np.float64] | None = None
    axes: tuple[int, ...] = STAY
    flips: tuple[bool, ...] = NO_FLIPS
    contrast: float = 1.0
    brightness: float = 0.0
    gamma: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    seed: int = 0


def draw_change(
    options: Augmentation, rng: np.random.Generator, patch_size: Shape, voxel_size: Vector
) -> Change:
    """Draw what is done to a patch, as far as `options` allow.

    Flips, transposes and turns by 90° move voxels exactly, and axes are only exchanged where
    both patch size and voxel size agree. `rng` is the only source of chance.
    """
    rotation = None
    if options.rotate and rng.random() < ROTATED:
        rotation = random_rotation(options.rotate, rng)
    axes, flips = _symmetry(options, rng, patch_size, voxel_size)
    contrast, gamma = options.contrast, options.gamma
    return Change(
        rotation,
        axes,
        flips,
        contrast=float(rng.uniform(1 - contrast, 1 + contrast)),
        brightness=float(rng.uniform(-contrast, contrast) / 2),
        # As often above 1 as below.
        gamma=float((1 + gamma) ** rng.uniform(-1, 1)),
        blur=float(rng.uniform(0, options.blur)),
        noise=float(rng.uniform(0, options.noise)),
        seed=int(rng.integers(2**63)),
    )


def shape_to_read(change: Change, patch_size: Shape, voxel_size: Vector) -> Shape:
    """Voxels to read for a patch: more than it has where it is rotated, by an even number."""
    if change.rotation is None:
        return patch_size
    half = (np.array(patch_size) - 1) / 2 * voxel_size
    reach = np.abs(change.rotation) @ half
    more = np.ceil((reach - half) / voxel_size - 1e-6).clip(0).astype(int)
    z, y, x = (np.array(patch_size) + 2 * more).tolist()
    return z, y, x


def change_patch(
    raw: Tensor,
    codes: Tensor,
    change: Change,
    patch_size: Shape,
    voxel_size: Vector,
    out: Tensor,
) -> Tensor:
    """Do `change` to a patch.

    Parameters
    ----------
    raw
        (z, y, x), uint8 or float 0..1, of the shape that `shape_to_read` says.
    codes
        (z, y, x) of the same place.
    change
        What to do.
    patch_size
        Voxels of the result.
    voxel_size
        nm.
    out
        (z, y, x) float32, where the changed raw is written, 0..1. Where a rotation comes from
        outside: the nearest raw.

    Returns
    -------
    codes
        (z, y, x). Where a rotation comes from outside: 0.
    """
    if change.rotation is not None:
        raw, codes = rotate(_image(raw), codes, change.rotation, patch_size, voxel_size)
    raw = orient(raw, change.axes, change.flips)
    if raw.dtype == torch.uint8:
        torch.div(raw, 255, out=out)
    else:
        out.copy_(raw)
    change_intensity(out, change)
    return orient(codes, change.axes, change.flips)


def random_rotation(degrees: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Matrix (3, 3) of a rotation about any axis by up to `degrees` either way."""
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
    """Rotate about the patch's centre in world space and keep `patch_size` voxels around it.

    Returns
    -------
    raw, linear, the nearest outside; codes, nearest, 0 outside.
    """
    matrix = rotation * voxel_size / np.array(voxel_size)[:, None]
    offset = (np.array(raw.shape) - 1) / 2 - matrix @ ((np.array(patch_size) - 1) / 2)
    places = _places(matrix, offset, patch_size, raw.device)
    scaled = [place * (2 / max(1, n - 1)) - 1 for place, n in zip(places, raw.shape, strict=True)]
    # Torch takes x, y, z.
    turned = grid_sample(
        raw[None, None], torch.stack(scaled[::-1], dim=-1)[None],
        mode="bilinear", padding_mode="border", align_corners=True,
    )[0, 0]  # fmt: skip
    flat = torch.zeros(patch_size, dtype=torch.int64, device=codes.device)
    inside = torch.ones(patch_size, dtype=torch.bool, device=codes.device)
    for place, n in zip(places, codes.shape, strict=True):
        index = (place + 0.5).floor().int()
        inside &= (index >= 0) & (index < n)
        flat = flat * n + index
    found = codes.reshape(-1)[flat.where(inside, 0).reshape(-1)].reshape(patch_size)
    return turned, found.where(inside, 0)


def orient(array: Tensor, axes: Sequence[int], flips: Sequence[bool]) -> Tensor:
    """The array with its axes in the order `axes`, then flipped where `flips` say."""
    if array.device.type != "cpu":
        return array.permute(*axes).flip([d for d, flip in enumerate(flips) if flip]).contiguous()
    view = array.numpy().transpose(*axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    return torch.from_numpy(_tiled_copy(view) if axes[2] == 0 else view.copy())


def change_intensity(raw: Tensor, change: Change) -> None:
    """Contrast and brightness, gamma, blur and noise, clipped to 0..1, in place."""
    if change.contrast != 1 or change.brightness:
        mean = raw.mean()
        raw.sub_(mean).mul_(change.contrast).add_(mean + change.brightness).clamp_(0, 1)
    if change.gamma != 1:
        raw.pow_(change.gamma)
    if change.blur:
        kernel = gaussian_1d(torch.tensor(change.blur), truncated=3, approx="sampled")
        kernels = [(kernel / kernel.sum()).to(raw)] * 3
        raw.copy_(separable_filtering(raw[None, None], kernels, mode="replicate")[0, 0])
    if change.noise:
        generator = torch.Generator(raw.device).manual_seed(change.seed)
        noise = torch.randn(raw.shape, generator=generator, device=raw.device)
        raw.add_(noise, alpha=change.noise).clamp_(0, 1)


def _tiled_copy(view: NDArray) -> NDArray:
    """A contiguous copy, made in tiles that stay in the processor's cache: several times faster
    where neighbours along the last axis come from afar.
    """
    copy = np.empty(view.shape, view.dtype)
    for start in product(*(range(0, n, TILE) for n in view.shape)):
        tile = tuple(slice(s, s + TILE) for s in start)
        copy[tile] = view[tile]
    return copy


def _image(raw: Tensor) -> Tensor:
    """Raw as float32, 0..1."""
    return raw.float().div_(255) if raw.dtype == torch.uint8 else raw


def _places(
    matrix: NDArray[np.float64], offset: NDArray[np.float64], shape: Shape, device: torch.device
) -> list[Tensor]:
    """Per axis, matrix · index + offset of each voxel of a box, float32."""
    z, y, x = (torch.arange(n, dtype=torch.float32, device=device) for n in shape)
    return [
        float(row[0]) * z[:, None, None] + float(row[1]) * y[:, None] + (float(row[2]) * x + shift)
        for row, shift in zip(matrix, offset.tolist(), strict=True)
    ]


def _symmetry(
    options: Augmentation, rng: np.random.Generator, shape: Shape, voxel_size: Vector
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """An exact movement, as `orient` takes it."""
    orders = [
        order
        for order in permutations(range(3))
        if all(shape[a] == shape[i] for i, a in enumerate(order))
        and all(isclose(voxel_size[a], voxel_size[i]) for i, a in enumerate(order))
    ]
    axes: tuple[int, ...] = STAY
    flips: tuple[bool, ...] = NO_FLIPS
    if options.flip:
        flips = _coins(rng)
    if options.transpose:
        axes, flips = _then(axes, flips, orders[rng.integers(len(orders))], NO_FLIPS)
    if options.rotate90:
        order, coins = orders[rng.integers(len(orders))], _coins(rng)
        mirrored = bool(np.linalg.det(np.eye(3)[list(order)]) * (-1) ** sum(coins) < 0)
        axes, flips = _then(axes, flips, order, (coins[0] ^ mirrored, *coins[1:]))
    return axes, flips


def _then(
    axes: Sequence[int], flips: Sequence[bool], order: Sequence[int], more: Sequence[bool]
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Two movements, one after the other, as one."""
    return tuple(axes[a] for a in order), tuple(
        flip ^ flips[a] for flip, a in zip(more, order, strict=True)
    )


def _coins(rng: np.random.Generator) -> tuple[bool, ...]:
    return tuple((rng.random(3) < 0.5).tolist())
