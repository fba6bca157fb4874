"""Smooth noise and distance fields in world coordinates: what the demo's cells are drawn with.

Positions, distances and spacings are nm, arrays are z, y, x. Distances are negative inside.
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
    """World positions of the voxel centres of `grid` along each axis."""
    z, y, x = (
        np.float32(t) + np.float32(v) * np.arange(n, dtype=np.float32)
        for t, v, n in zip(grid.translation, grid.voxel_size, grid.shape, strict=True)
    )
    return z, y, x


def points_of(axes: Axes) -> Axes:
    """The three coordinates of every point of a grid, in shapes that broadcast."""
    return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]


def box_slices(axes: Axes, low: Position, high: Position) -> Slices:
    """Voxels whose centres lie in the box from `low` to `high`."""
    z, y, x = (
        slice(int(np.searchsorted(a, lo)), int(np.searchsorted(a, hi)))
        for a, lo, hi in zip(axes, low, high, strict=True)
    )
    return z, y, x


def axes_in(axes: Axes, box: Slices) -> Axes:
    """The parts of `axes` in a box of voxels."""
    return axes[0][box[0]], axes[1][box[1]], axes[2][box[2]]


@dataclass(frozen=True)
class Field:
    """Values on a cubic lattice that can be evaluated on any grid.

    Attributes
    ----------
    values
        (z, y, x) float32, samples (order 1) or B-spline coefficients (order 3).
    origin
        Position of value 0.
    spacing
        Between values, the same along all axes.
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
        for axis in (2, 1, 0):  # last the axis whose slices are contiguous: most of the work
            out = self._interpolate(out, axis, axes[axis])
        return out

    def _interpolate(self, values: Array, axis: int, positions: Array) -> Array:
        t = (positions - self.origin[axis]) / self.spacing
        t = np.clip(t, 0, values.shape[axis] - 1)
        base = np.floor(t).astype(int)
        first, weights = _weights((t - base).astype(np.float32), self.order)
        shape = [1, 1, 1]
        shape[axis] = -1
        out: Array | None = None
        for tap, weight in enumerate(weights):
            index = np.clip(base + first + tap, 0, values.shape[axis] - 1)
            part = np.take(values, index, axis)
            part *= weight.reshape(shape)
            out = part if out is None else np.add(out, part, out=out)
        assert out is not None
        return out


def _weights(f: Array, order: int) -> tuple[int, list[Array]]:
    """Offset of the first lattice value and weights of that and the next ones."""
    if order == 1:
        return 0, [1 - f, f]
    g = 1 - f
    middle = [(4 - 6 * u**2 + 3 * u**3) / 6 for u in (f, g)]
    return -1, [g**3 / 6, middle[0], middle[1], f**3 / 6]


def smooth_noise(rng: np.random.Generator, low: Position, high: Position, spacing: float) -> Field:
    """Random field of mean 0 and variance 1 over a box; `spacing` is the size of its grains."""
    origin = np.asarray(low, float) - 2 * spacing
    shape = np.ceil((np.asarray(high) - low) / spacing).astype(int) + 5
    values = rng.standard_normal(shape, dtype=np.float32) / np.float32(SPLINE_STD)
    return Field(values, origin, spacing, order=3)


def cell_depth(points: Axes, centres: Vector) -> tuple[NDArray[np.intp], Array]:
    """Which of the `centres` is nearest, and the distance to the border with the next cell."""
    squared = np.stack([_squared(points, c) for c in centres])
    owner = squared.argmin(0)
    nearest = np.take_along_axis(squared, owner[None], 0)[0]
    between = np.linalg.norm(centres[:, None] - centres[None], axis=-1).astype(np.float32)
    border = np.full(nearest.shape, np.inf, np.float32)
    for other, distance in enumerate(squared):
        to_plane = (distance - nearest) / np.maximum(2 * between[owner, other], 1)
        np.minimum(border, to_plane, out=border, where=owner != other)
    return owner, border


def ellipsoid_distance(points: Axes, centre: Position, radii: Position) -> Array:
    """Distance to the surface of an ellipsoid, to first order in the distance."""
    scaled = _squared(points, centre, radii)
    steep = _squared(points, centre, [r * r for r in radii])
    scaled = np.sqrt(scaled)
    return scaled * (scaled - 1) / np.sqrt(np.maximum(steep, np.float32(1e-12)))


def path_distance(points: Axes, path: Vector) -> tuple[Array, Array]:
    """Distance to a polyline, and how far along it a point lies (also beyond its ends)."""
    shape = np.broadcast_shapes(*(p.shape for p in points))
    distance = np.full(shape, np.inf, np.float32)
    along = np.zeros(shape, np.float32)
    done = 0.0
    for i, (start, stop) in enumerate(zip(path[:-1], path[1:], strict=True)):
        length = float(np.linalg.norm(stop - start))
        unit = (stop - start) / length
        offset = [p - np.float32(s) for p, s in zip(points, start, strict=True)]
        free = sum(o * np.float32(u) for o, u in zip(offset, unit, strict=True))
        t = np.clip(free, 0, np.float32(length))
        steps = (o - t * np.float32(u) for o, u in zip(offset, unit, strict=True))
        here = np.sqrt(sum(s * s for s in steps))
        nearer = here < distance
        distance[nearer] = here[nearer]
        low, high = (-np.inf if i == 0 else 0), (np.inf if i == len(path) - 2 else length)
        along[nearer] = np.clip(free, low, high)[nearer] + np.float32(done)
        done += length
    return distance, along


def step(values: Array, width: float) -> Array:
    """0 where `values` are negative, 1 where positive, over a ramp of `width` around 0."""
    return np.clip(values / np.float32(width) + np.float32(0.5), 0, 1)


def band(values: Array, low: float, high: float, width: float = 6) -> Array:
    """1 where `low` < `values` < `high`, else 0, with ramps of `width`."""
    return step(values - np.float32(low), width) * step(np.float32(high) - values, width)


def smooth_max(a: Array, b: Array, width: float) -> Array:
    """Maximum with a rounded crease; at most width/4 above the true one, and only near it."""
    near = np.maximum(np.float32(width) - np.abs(a - b), 0)
    return np.maximum(a, b) + near * near / np.float32(4 * width)


def mix(image: Array, value: Array | float, weight: Array) -> None:
    """Blend `value` into `image` (in place)."""
    image += (value - image) * weight


def _squared(points: Axes, centre: Position, radii: Position = (1.0, 1.0, 1.0)) -> Array:
    z, y, x = (
        ((p - np.float32(c)) / np.float32(r)) ** 2
        for p, c, r in zip(points, centre, radii, strict=True)
    )
    return z + y + x
