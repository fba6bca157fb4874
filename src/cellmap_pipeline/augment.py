"""Random changes of training patches, the same for raw and targets."""

from collections.abc import Sequence
from itertools import permutations
from math import cos, isclose, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellmap_pipeline.config import Augmentation
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.targets import UNKNOWN

# Linear interpolation softens raw, and prediction sees it sharp: so not every patch is rotated.
ROTATED = 0.5


def augment(
    raw: NDArray[np.float32],
    target: NDArray[np.uint8],
    options: Augmentation,
    rng: np.random.Generator,
    patch_size: Shape,
    voxel_size: Vector,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Change a patch at random, as far as `options` allow.

    Flips, transposes and turns by 90° move voxels exactly, and axes are only exchanged where
    both patch size and voxel size agree. Free rotation, in world space, is linear for raw and
    nearest for targets.

    Parameters
    ----------
    raw : numpy.ndarray
        float32 (z, y, x), 0 to 1, of `patch_size` or larger all round (`rotation_margin`), not
        changed itself.
    target : numpy.ndarray
        uint8 (c, z, y, x) of the same place, 255 where unknown; not changed itself.
    options : Augmentation
        What is done, and how strongly.
    rng : numpy.random.Generator
        The only source of chance: the same state gives the same patch.
    patch_size : tuple of int
        Voxels of the result along z, y, x.
    voxel_size : tuple of float
        nm along z, y, x.

    Returns
    -------
    tuple of numpy.ndarray
        raw (z, y, x) float32, 0 to 1, and target (c, z, y, x) uint8, both C-contiguous. What a
        rotation brings in from outside the given patch is the nearest raw and target 255.
    """
    if options.rotate and rng.random() < ROTATED:
        turn = random_rotation(options.rotate, rng)
        raw, target = rotate(raw, target, turn, patch_size, voxel_size)
    else:
        raw, target = _centre(raw, patch_size), _centre(target, patch_size)
    for axes, flips in _symmetries(options, rng, patch_size, voxel_size):
        raw, target = orient(raw, axes, flips), orient(target, axes, flips)
    return _change_intensity(raw, options, rng), np.ascontiguousarray(target)


def rotation_margin(patch_size: Shape, degrees: float, voxel_size: Vector) -> Shape:
    """Voxels to read so that a patch can be rotated by up to `degrees` about any axis.

    Parameters
    ----------
    patch_size : tuple of int
        Voxels along z, y, x.
    degrees : float
        0 to 180.
    voxel_size : tuple of float
        nm along z, y, x.

    Returns
    -------
    tuple of int
        `patch_size`, larger by an even number of voxels along each axis.
    """
    half = (np.array(patch_size) - 1) / 2 * voxel_size
    across = np.sqrt((half**2).sum() - half**2)
    # Rotated by an angle, a corner comes nearest to an axis by that much, or reaches it.
    angle = np.minimum(radians(degrees), np.arctan2(across, half))
    reach = half * np.cos(angle) + across * np.sin(angle)
    more = np.ceil((reach - half) / voxel_size - 1e-6).astype(int)
    z, y, x = (np.array(patch_size) + 2 * more).tolist()
    return z, y, x


def random_rotation(degrees: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Matrix (3, 3) of a rotation about any axis by up to `degrees` either way."""
    axis = rng.standard_normal(3)
    a, b, c = axis / np.linalg.norm(axis)
    angle = radians(rng.uniform(-degrees, degrees))
    # Rodrigues' formula.
    cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    return np.eye(3) + sin(angle) * cross + (1 - cos(angle)) * cross @ cross


def rotate(
    raw: NDArray[np.float32],
    target: NDArray[np.uint8],
    rotation: NDArray[np.float64],
    patch_size: Shape,
    voxel_size: Vector,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Rotate about the patch's centre in world space and keep `patch_size` voxels around it.

    Parameters
    ----------
    raw, target : numpy.ndarray
        (z, y, x) and (c, z, y, x), of `patch_size` or larger.
    rotation : numpy.ndarray
        (3, 3); the result at p is what was at rotation · p.
    patch_size : tuple of int
        Voxels of the result.
    voxel_size : tuple of float
        nm along z, y, x.

    Returns
    -------
    tuple of numpy.ndarray
        raw, linear, the nearest outside; target, nearest, 255 outside.
    """
    matrix = rotation * voxel_size / np.array(voxel_size)[:, None]
    offset = (np.array(raw.shape) - 1) / 2 - matrix @ ((np.array(patch_size) - 1) / 2)
    turned = ndimage.affine_transform(raw, matrix, offset, patch_size, order=1, mode="nearest")
    return turned, _nearest(target, matrix, offset, patch_size)


def orient(array: NDArray, axes: Sequence[int], flips: Sequence[bool]) -> NDArray:
    """A view with its last three axes in the order `axes`, then flipped where `flips` say."""
    lead = array.ndim - 3
    moved = array.transpose(*range(lead), *(lead + axis for axis in axes))
    index: tuple[Any, ...] = (..., *(slice(None, None, -1 if flip else 1) for flip in flips))
    return moved[index]


def _nearest(
    target: NDArray[np.uint8],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    shape: Shape,
) -> NDArray[np.uint8]:
    """Values at the voxels nearest to matrix · index + offset, 255 outside.

    Places are found once for all channels, which scipy would do for each.
    """
    along = np.ogrid[: shape[0], : shape[1], : shape[2]]
    flat = np.zeros(shape, np.intp)
    inside = np.ones(shape, bool)
    for row, shift, n in zip(matrix, offset, target.shape[1:], strict=True):
        place = sum(m * i for m, i in zip(row.astype(np.float32), along, strict=True))
        index = np.floor(place + np.float32(shift + 0.5)).astype(np.int32)
        inside &= (index >= 0) & (index < n)
        flat = flat * n + index
    flat[~inside] = 0
    found = np.take(target.reshape(len(target), -1), flat.ravel(), axis=1)
    found = found.reshape(len(target), *shape)
    found[:, ~inside] = UNKNOWN
    return found


def _centre(array: NDArray, shape: Shape) -> NDArray:
    starts = [(n - m) // 2 for n, m in zip(array.shape[-3:], shape, strict=True)]
    index: tuple[Any, ...] = (..., *(slice(s, s + m) for s, m in zip(starts, shape, strict=True)))
    return array[index]


def _symmetries(
    options: Augmentation, rng: np.random.Generator, shape: Shape, voxel_size: Vector
) -> list[tuple[Sequence[int], Sequence[bool]]]:
    """Exact movements, as `orient` takes them, to be done one after the other."""
    orders = [
        order
        for order in permutations(range(3))
        if all(shape[a] == shape[i] for i, a in enumerate(order))
        and all(isclose(voxel_size[a], voxel_size[i]) for i, a in enumerate(order))
    ]
    stay, none = (0, 1, 2), (False, False, False)
    moves: list[tuple[Sequence[int], Sequence[bool]]] = []
    if options.flip:
        moves.append((stay, _coins(rng)))
    if options.transpose:
        moves.append((orders[rng.integers(len(orders))], none))
    if options.rotate90:
        order, flips = orders[rng.integers(len(orders))], _coins(rng)
        mirrored = np.linalg.det(np.eye(3)[list(order)]) * (-1) ** sum(flips) < 0
        moves.append((order, [flips[0] ^ mirrored, *flips[1:]]))
    return moves


def _coins(rng: np.random.Generator) -> list[bool]:
    return (rng.random(3) < 0.5).tolist()


def _change_intensity(
    raw: NDArray[np.float32], options: Augmentation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Contrast and brightness, gamma, blur and noise, then clipped to 0..1."""
    raw = np.array(raw, np.float32, order="C")
    if options.contrast:
        mean = raw.mean()
        raw -= mean
        raw *= rng.uniform(1 - options.contrast, 1 + options.contrast)
        raw += mean + rng.uniform(-options.contrast, options.contrast) / 2
        raw.clip(0, 1, out=raw)
    if options.gamma:
        # As often above 1 as below.
        np.power(raw, (1 + options.gamma) ** rng.uniform(-1, 1), out=raw)
    if options.blur:
        sigma = rng.uniform(0, options.blur)
        ndimage.gaussian_filter(raw, sigma, output=raw, mode="nearest", truncate=3)
    if options.noise:
        sigma = rng.uniform(0, options.noise)
        raw += np.float32(sigma) * rng.standard_normal(raw.shape, dtype=np.float32)
    return raw.clip(0, 1, out=raw)
