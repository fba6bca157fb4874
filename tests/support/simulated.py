"""Volumes of known objects, and simulated predictions of them."""

import cc3d
import edt
import numpy as np
from scipy import ndimage

from cellmap_pipeline.channels import AFFINITY_SUFFIXES, long_range_suffix
from cellmap_pipeline.geometry import pair_slices
from cellmap_pipeline.patches.targets import MAX_DISTANCE_VOXELS


def spheres(shape, *centers_and_radii):
    """Draw spheres (z, y, x, radius in voxels) with ids 1, 2, …; the first wins overlaps."""
    grid = np.ogrid[tuple(map(slice, shape))]
    truth = np.zeros(shape, np.uint16)
    for i, (*center, radius) in enumerate(centers_and_radii, 1):
        squares = sum((g - c) ** 2 for g, c in zip(grid, center, strict=True))
        truth[(squares <= radius**2) & (truth == 0)] = i
    return truth


def inner_boundary(truth):
    boundary = np.zeros(truth.shape, bool)
    padded = np.pad(truth, 1, mode="edge")
    for axis in range(3):
        for step in (-1, 1):
            boundary |= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] != truth
    return boundary & (truth > 0)


def tubes(shape=(32, 48, 48), radius=7):
    """Draw parallel tubes that touch along their length."""
    z, y, x = np.indices(shape)
    truth = np.zeros(shape, np.uint16)
    for i, (row, column) in enumerate(np.ndindex(3, 3), 1):
        center_y, center_x = 9 + 14 * row + 2 * np.sin(z / 6), 9 + 14 * column
        truth[((y - center_y) ** 2 + (x - center_x) ** 2 <= radius**2) & (truth == 0)] = i
    return truth


def sheets(shape=(40, 48, 48), thickness=7):
    """Draw a stack of wavy sheets that touch everywhere."""
    z, y, x = np.indices(shape)
    height = z + 2 * np.sin(y / 9) + 2 * np.cos(x / 7)
    return (1 + np.clip(height / thickness, 0, shape[0] // thickness).astype(int)).astype(np.uint16)


def shells(shape=(48, 48, 48), thickness=7):
    """Draw nested shells around a sphere."""
    squares = sum((i - (n - 1) / 2) ** 2 for i, n in zip(np.indices(shape), shape, strict=True))
    shell = 1 + (np.sqrt(squares) / thickness).astype(int)
    return np.where(shell <= 3, shell, 0).astype(np.uint16)


def same_object(truth, offset):
    """Whether each voxel p and the voxel p - `offset` are of one object."""
    here, there = pair_slices(truth.shape, offset)
    same = np.zeros(truth.shape, bool)
    same[here] = (truth[here] > 0) & (truth[here] == truth[there])
    return same


def predicted(
    truth, label, noise=0.06, seed=0, blur=1.0, eroded=0, offsets=(), voxel_size=(8.0, 8.0, 8.0)
):
    """Simulate the predicted channels of a label as uint8 probabilities.

    `noise` is the standard deviation of the noise, `blur` a factor on the usual blur, and `eroded`
    the number of voxels that objects lose at their surface. `offsets` are those of long-range
    affinities, voxels.
    """
    rng = np.random.default_rng(seed)
    if eroded:
        inside = [ndimage.binary_erosion(truth == i, iterations=eroded) for i in np.unique(truth)]
        truth = truth * np.any(inside[1:], axis=0)

    def channel(mask, sigma, gain):
        value = gain * ndimage.gaussian_filter(mask.astype(np.float32), sigma * blur)
        noisy = value + noise * rng.standard_normal(mask.shape, np.float32)
        return np.clip(255 * noisy, 0, 255).astype(np.uint8)

    channels = {
        label: channel(truth > 0, 1.0, 1.0),
        f"{label}_boundary": channel(inner_boundary(truth), 0.7, 1.2),
        f"{label}_distance": channel(np.minimum(edt.edt(truth) / MAX_DISTANCE_VOXELS, 1), 0.7, 1.0),
    }
    for axis, suffix in enumerate(AFFINITY_SUFFIXES):
        offset = np.eye(3, dtype=int)[axis]
        channels[label + suffix] = channel(same_object(truth, offset), 0.7, 1.0)
    for offset in offsets:
        name = label + long_range_suffix(tuple(np.multiply(offset, voxel_size)))
        channels[name] = channel(same_object(truth, offset), 0.7, 1.0)
    return channels


def filling(shape=(48, 48, 48), n=14, seed=0):
    """Draw cells that fill the volume: each voxel belongs to the nearest of n points, warped."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, shape, (n, 3))
    warp = [ndimage.gaussian_filter(rng.normal(size=shape), 4) * 60 for _ in shape]
    grid = np.indices(shape) + warp
    squares = [((grid - p[:, None, None, None]) ** 2).sum(axis=0) for p in points]
    ids = np.argmin(squares, axis=0).astype(np.uint16) + 1
    return cc3d.connected_components(ids).astype(np.uint16)


def with_gaps(channel, seed=0):
    """Weaken a channel in places, like membranes that are cut obliquely."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=channel.shape), 2.5)
    return (channel * np.where(field > 1.3 * field.std(), 0.2, 1)).astype(np.uint8)
