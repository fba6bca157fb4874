"""World coordinates: grids of voxels in nm, z, y, x.

A grid is (voxel size, translation, shape). Its translation is the world position of the center
of voxel 0, so voxel `i` fills `translation + (i ± ½) · voxel_size` along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Vector = tuple[float, float, float]
Shape = tuple[int, int, int]

# Voxel sizes outside this range are not in nm.
MIN_VOXEL_NM, MAX_VOXEL_NM = 0.1, 1e5
# Positions closer than this count as equal: published translations are rounded to 0.01 nm.
TOLERANCE_VOXELS = 0.02
# Voxel sizes within this factor of each other count as equal: 1.74 × 2 × 2 as 2 nm.
SAME_SIZE = 1.25


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels.

    Attributes
    ----------
    voxel_size
        Size of a voxel, nm.
    translation
        World position of the center of voxel 0, nm.
    shape
        Number of voxels.
    """

    voxel_size: Vector
    translation: Vector
    shape: Shape

    def __post_init__(self) -> None:
        object.__setattr__(self, "voxel_size", tuple(float(v) for v in self.voxel_size))
        object.__setattr__(self, "translation", tuple(float(v) for v in self.translation))
        object.__setattr__(self, "shape", tuple(int(v) for v in self.shape))
        if not len(self.voxel_size) == len(self.translation) == len(self.shape) == 3:
            raise ValueError(f"a grid has three axes (z, y, x), not {self}")
        if not all(math.isfinite(v) and v > 0 for v in self.voxel_size):
            raise ValueError(f"voxel sizes are positive, not {list(self.voxel_size)}")
        if not all(math.isfinite(v) for v in self.translation):
            raise ValueError(f"translations are finite, not {list(self.translation)}")
        if not all(v > 0 for v in self.shape):
            raise ValueError(f"shapes are positive, not {list(self.shape)}")

    @property
    def lower(self) -> Vector:
        """World position of the lower outer corner, nm."""
        return _vector(t - v / 2 for t, v in zip(self.translation, self.voxel_size, strict=True))

    @property
    def upper(self) -> Vector:
        """World position of the upper outer corner, nm."""
        return _vector(
            lo + n * v for lo, n, v in zip(self.lower, self.shape, self.voxel_size, strict=True)
        )

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    def box(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """Return the grid of voxels `start` to `start + shape`; `start` may be negative."""
        translation = (
            t + s * v for t, s, v in zip(self.translation, start, self.voxel_size, strict=True)
        )
        return Grid(self.voxel_size, _vector(translation), shape_of(shape))

    def at(self, voxel_size: Sequence[float]) -> Grid:
        """Return the smallest grid of another voxel size that covers this grid's extent."""
        shape = [
            max(1, math.ceil((hi - lo) / v - TOLERANCE_VOXELS))
            for lo, hi, v in zip(self.lower, self.upper, voxel_size, strict=True)
        ]
        translation = _vector(lo + v / 2 for lo, v in zip(self.lower, voxel_size, strict=True))
        return Grid(_vector(voxel_size), translation, shape_of(shape))

    def padded(self, voxels: Sequence[int]) -> Grid:
        """Return the grid grown by `voxels` on both sides of each axis."""
        start = [-p for p in voxels]
        shape = [n + 2 * p for n, p in zip(self.shape, voxels, strict=True)]
        return self.box(start, shape)

    def position(self, other: Grid) -> Vector:
        """Return the position of `other`'s voxel 0 in voxels, counted from this grid's voxel 0."""
        return _vector(
            (o - t) / v
            for o, t, v in zip(other.translation, self.translation, self.voxel_size, strict=True)
        )

    def index_box(self, other: Grid, margin: int = 0) -> tuple[Shape, Shape]:
        """Return start and stop of the voxels of this grid that `other` overlaps.

        The box is not clipped: it may reach outside this grid. `margin` voxels are added on
        both sides.
        """
        start, stop = [], []
        for lo, hi, own, v in zip(
            other.lower, other.upper, self.lower, self.voxel_size, strict=True
        ):
            start.append(math.floor((lo - own) / v + TOLERANCE_VOXELS) - margin)
            stop.append(math.ceil((hi - own) / v - TOLERANCE_VOXELS) + margin)
        return shape_of(start), shape_of(stop)

    def covers(self, other: Grid) -> bool:
        """Whether this grid's extent contains `other`'s."""
        start, stop = self.index_box(other)
        return all(s >= 0 for s in start) and all(
            e <= n for e, n in zip(stop, self.shape, strict=True)
        )

    def overlaps(self, other: Grid) -> bool:
        """Whether the extents of the two grids overlap."""
        shared = [
            min(c, d) - max(a, b)
            for a, b, c, d in zip(self.lower, other.lower, self.upper, other.upper, strict=True)
        ]
        finer = map(min, self.voxel_size, other.voxel_size)
        return all(s > TOLERANCE_VOXELS * v for s, v in zip(shared, finer, strict=True))

    def offset(self, other: Grid) -> Shape | None:
        """Return the offset of `other`'s voxel 0 in whole voxels, or None if they are not aligned.

        Grids are aligned if their voxel sizes are equal and their voxel centers coincide, within
        `TOLERANCE_VOXELS` at both ends of `other`.
        """
        offset = [round(p) for p in self.position(other)]
        for p, whole, n, own, theirs in zip(
            self.position(other), offset, other.shape, self.voxel_size, other.voxel_size,
            strict=True,
        ):  # fmt: skip
            end = p + (n - 1) * theirs / own
            if abs(p - whole) > TOLERANCE_VOXELS or abs(end - whole - (n - 1)) > TOLERANCE_VOXELS:
                return None
        return shape_of(offset)


def voxels_across(width_nm: Sequence[float], voxel_size: Sequence[float]) -> Shape:
    """Return the voxels that a width (nm; z, y, x) takes, rounded up."""
    return shape_of(
        math.ceil(width / v - TOLERANCE_VOXELS)
        for width, v in zip(width_nm, voxel_size, strict=True)
    )


def size_ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the largest ratio (at least 1) between two voxel sizes along any axis."""
    return max(max(a / b, b / a) for a, b in zip(one, other, strict=True))


def fraction_outside(grid: Grid, extent: Grid, tolerance: Sequence[float] = (0, 0, 0)) -> float:
    """Return the fraction of `extent` that lies outside `grid`.

    On each side, an overhang of less than `tolerance` (nm) does not count.
    """
    inside = 1.0
    for lo, hi, low, high, least in zip(
        extent.lower, extent.upper, grid.lower, grid.upper, tolerance, strict=True
    ):
        sides = [d for d in (low - lo, hi - high) if d > 0 and d >= (1 - TOLERANCE_VOXELS) * least]
        inside *= max(0.0, 1 - sum(sides) / (hi - lo))
    return 1 - inside


def is_plausible(voxel_size: Sequence[float]) -> bool:
    """Whether a voxel size is plausible in nm; if not, it is probably in another unit."""
    return all(MIN_VOXEL_NM <= size <= MAX_VOXEL_NM for size in voxel_size)


def union(grids: Sequence[Grid]) -> Grid:
    """Return the bounding box of all `grids`, in voxels of the first one's size."""
    lower = [min(grid.lower[d] for grid in grids) for d in range(3)]
    upper = [max(grid.upper[d] for grid in grids) for d in range(3)]
    first = grids[0]
    start = [
        math.floor((lo - own) / v + TOLERANCE_VOXELS)
        for lo, own, v in zip(lower, first.lower, first.voxel_size, strict=True)
    ]
    box = first.box(start, (1, 1, 1))
    shape = [
        max(1, math.ceil((hi - lo) / v - TOLERANCE_VOXELS))
        for hi, lo, v in zip(upper, box.lower, box.voxel_size, strict=True)
    ]
    return first.box(start, shape)


def common_extent(grids: Sequence[Grid]) -> Grid:
    """Return the box around the grids of a crop's labels, in the voxels of the finest one.

    A grid that overlaps no other one is misplaced and does not count. If none overlap, the finest
    one counts, so the order of the grids does not matter.
    """
    ordered = sorted(grids, key=lambda grid: (grid.voxel_size, grid.translation))
    overlapping = [
        grid
        for n, grid in enumerate(ordered)
        if any(grid.overlaps(other) for other in (*ordered[:n], *ordered[n + 1 :]))
    ]
    return union(overlapping or ordered[:1])


def central_box(grid: Grid, max_voxels: int) -> Grid:
    """Return the central box of a grid of up to `max_voxels`; the longest axes (nm) are cut."""
    shape = list(grid.shape)
    while math.prod(shape) > max_voxels:
        lengths = [n * v if n > 1 else 0 for n, v in zip(shape, grid.voxel_size, strict=True)]
        axis = lengths.index(max(lengths))
        fits = max_voxels * shape[axis] // math.prod(shape)
        shape[axis] = max(1, fits, shape[axis] // 2)
    start = [(n - s) // 2 for n, s in zip(grid.shape, shape, strict=True)]
    return grid.box(start, shape)


def _vector(values: Iterable[float]) -> Vector:
    z, y, x = (float(v) for v in values)
    return z, y, x


def shape_of(values: Iterable[int]) -> Shape:
    """Return three integers as a tuple."""
    z, y, x = (int(v) for v in values)
    return z, y, x


def pair_slices(
    shape: Sequence[int], offset: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return slices of all voxels p of an array with a voxel p - `offset`, and of the latter."""
    counts = [max(0, n - abs(o)) for n, o in zip(shape, offset, strict=True)]
    here, there = (
        tuple(
            slice(max(0, sign * o), max(0, sign * o) + n)
            for o, n in zip(offset, counts, strict=True)
        )
        for sign in (1, -1)
    )
    return here, there


def intersection(a: Grid, b: Grid) -> Grid:
    """Return the part of `a` that `b` overlaps, in voxels of `a`."""
    start, stop = a.index_box(b)
    low = [max(0, s) for s in start]
    high = [min(n, e) for n, e in zip(a.shape, stop, strict=True)]
    return a.box(low, [e - s for s, e in zip(low, high, strict=True)])
