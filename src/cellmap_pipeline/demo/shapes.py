"""Smooth noise and distance fields in world coordinates, from which the demo's cells are drawn.

Positions, distances and spacings are in nm; arrays are in the order z, y, x. Distances are negative
inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.geometry import Grid

Array = NDArray[np.floating]  # float32 throughout
Vector = NDArray[np.float64]
Position = Sequence[float] | Vector
Axes = tuple[Array, Array, Array]
Slices = tuple[slice, slice, slice]

# Standard deviation of a cubic B-spline with independent coefficients of variance 1, on average
# over its cells: the squared weights of one axis sum to 151/315.
SPLINE_STD = (151 / 315) ** 1.5


def axes_of(grid: Grid) -> Axes:
    """World positions of the voxel centers of `grid` along each axis."""
    z, y, x = (
        np.float32(t) + np.float32(v) * np.arange(n, dtype=np.float32)
        for t, v, n in zip(grid.translation, grid.voxel_size, grid.shape, strict=True)
    )
    return z, y, x


def points_of(axes: Axes) -> Axes:
    """Coordinates of all points of a grid along z, y and x, in shapes that broadcast."""
    return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]


def box_slices(axes: Axes, low: Position, high: Position) -> Slices:
    """Slices of the voxels whose centers lie in the box from `low` to `high`."""
    z, y, x = (
        slice(int(np.searchsorted(a, lo)), int(np.searchsorted(a, hi)))
        for a, lo, hi in zip(axes, low, high, strict=True)
    )
    return z, y, x


def axes_in(axes: Axes, box: Slices) -> Axes:
    """The parts of `axes` within a box of voxels."""
    return axes[0][box[0]], axes[1][box[1]], axes[2][box[2]]


@dataclass(frozen=True)
class Field:
    """Values on a cubic lattice that can be evaluated on any grid.

    Attributes
    ----------
    values
        (z, y, x) float32, samples (order 1) or B-spline coefficients (order 3).
    origin
        Position of the first value, nm.
    spacing
        Distance between values, the same along all axes, nm.
    order
        1 interpolates linearly, 3 as a cubic B-spline.
    """

    values: Array
    origin: Vector
    spacing: float
    order: Literal[1, 3] = 1

    @property
    def axes(self) -> Axes:
        """Positions of the values along each axis."""
        return axes_of(Grid((self.spacing,) * 3, tuple(self.origin), self.values.shape))

    @property
    def bounds(self) -> tuple[Vector, Vector]:
        """Positions of the first and the last value."""
        size = self.spacing * (np.array(self.values.shape) - 1)
        return self.origin, self.origin + size

    def on(self, axes: Axes) -> Array:
        """Values at the points of a grid, (z, y, x) float32; constant beyond the lattice."""
        out = self.values
        # The axis with contiguous slices comes last, because it has most of the work.
        for axis in (2, 1, 0):
            out = self._interpolate(out, axis, axes[axis])
        return out

    def _interpolate(self, values: Array, axis: int, positions: Array) -> Array:
        t = (positions - self.origin[axis]) / self.spacing
        t = np.clip(t, 0, values.shape[axis] - 1)
        base = np.floor(t).astype(int)
        first, weights = _interpolation_weights((t - base).astype(np.float32), self.order)
        shape = [1, 1, 1]
        shape[axis] = -1
        out: Array | None = None
        for offset, weight in enumerate(weights, first):
            index = np.clip(base + offset, 0, values.shape[axis] - 1)
            term = np.take(values, index, axis)
            term *= weight.reshape(shape)
            out = term if out is None else np.add(out, term, out=out)
        assert out is not None
        return out


def _interpolation_weights(f: Array, order: int) -> tuple[int, list[Array]]:
    """Weights of the lattice values around each position.

    Parameters
    ----------
    f
        Fractional part of each position on the lattice, in 0..1.
    order
        1 (linear) or 3 (cubic B-spline).

    Returns
    -------
    first
        Offset of the first of these lattice values from the one below the position.
    weights
        Weights of that value and the following ones.
    """
    if order == 1:
        return 0, [1 - f, f]
    g = 1 - f
    middle = [(4 - 6 * u**2 + 3 * u**3) / 6 for u in (f, g)]
    return -1, [g**3 / 6, middle[0], middle[1], f**3 / 6]


def smooth_noise(rng: np.random.Generator, low: Position, high: Position, spacing: float) -> Field:
    """Random field of mean 0 and variance 1 over a box, with a grain size of `spacing`."""
    origin = np.asarray(low, float) - 2 * spacing
    shape = np.ceil((np.asarray(high) - low) / spacing).astype(int) + 5
    values = rng.standard_normal(shape, dtype=np.float32) / np.float32(SPLINE_STD)
    return Field(values, origin, spacing, order=3)


def cell_depth(points: Axes, centers: Vector) -> tuple[NDArray[np.intp], Array]:
    """Index of the nearest of `centers`, and the distance to the border with the next cell."""
    squared = np.stack([_squared(points, c) for c in centers])
    owner = squared.argmin(0)
    nearest = np.take_along_axis(squared, owner[None], 0)[0]
    between = np.linalg.norm(centers[:, None] - centers[None], axis=-1).astype(np.float32)
    border = np.full(nearest.shape, np.inf, np.float32)
    for other, distance in enumerate(squared):
        to_plane = (distance - nearest) / np.maximum(2 * between[owner, other], 1)
        np.minimum(border, to_plane, out=border, where=owner != other)
    return owner, border


def ellipsoid_distance(points: Axes, center: Position, radii: Position) -> Array:
    """Distance to the surface of an ellipsoid, to first order in the distance."""
    scaled = _squared(points, center, radii)
    gradient = _squared(points, center, [r * r for r in radii])
    scaled = np.sqrt(scaled)
    return scaled * (scaled - 1) / np.sqrt(np.maximum(gradient, np.float32(1e-12)))


def path_distance(points: Axes, path: Vector) -> tuple[Array, Array]:
    """Distance to a polyline, and the position along it (extrapolated beyond its ends)."""
    shape = np.broadcast_shapes(*(p.shape for p in points))
    distance = np.full(shape, np.inf, np.float32)
    along = np.zeros(shape, np.float32)
    length_so_far = 0.0
    for i, (start, stop) in enumerate(zip(path[:-1], path[1:], strict=True)):
        length = float(np.linalg.norm(stop - start))
        unit = (stop - start) / length
        offset = [p - np.float32(s) for p, s in zip(points, start, strict=True)]
        free = sum(o * np.float32(u) for o, u in zip(offset, unit, strict=True))
        t = np.clip(free, 0, np.float32(length))
        steps = (o - t * np.float32(u) for o, u in zip(offset, unit, strict=True))
        to_segment = np.sqrt(sum(s * s for s in steps))
        nearer = to_segment < distance
        distance[nearer] = to_segment[nearer]
        low, high = (-np.inf if i == 0 else 0), (np.inf if i == len(path) - 2 else length)
        along[nearer] = np.clip(free, low, high)[nearer] + np.float32(length_so_far)
        length_so_far += length
    return distance, along


def step(values: Array, width: float) -> Array:
    """Smooth step from 0 (negative `values`) to 1 (positive ones), with a ramp of `width`."""
    return np.clip(values / np.float32(width) + np.float32(0.5), 0, 1)


def band(values: Array, low: float, high: float, width: float = 6) -> Array:
    """Smooth mask, 1 where `low` < `values` < `high` and 0 elsewhere, with ramps of `width`."""
    return step(values - np.float32(low), width) * step(np.float32(high) - values, width)


def smooth_max(a: Array, b: Array, width: float) -> Array:
    """Maximum with a rounded crease; exceeds the maximum by up to width/4, near the crease only."""
    closeness = np.maximum(np.float32(width) - np.abs(a - b), 0)
    return np.maximum(a, b) + closeness * closeness / np.float32(4 * width)


def blend(image: Array, value: Array | float, weight: Array) -> None:
    """Blend `value` into `image`, in place."""
    image += (value - image) * weight


def random_direction(rng: np.random.Generator) -> Vector:
    """Draw a random unit vector."""
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def _squared(points: Axes, center: Position, radii: Position = (1.0, 1.0, 1.0)) -> Array:
    z, y, x = (
        ((p - np.float32(c)) / np.float32(r)) ** 2
        for p, c, r in zip(points, center, radii, strict=True)
    )
    return z + y + x
