"""The area of surfaces by the Crofton formula.

The area of a surface is proportional to the number of times that lines of all directions cross it.
Here, the lines run through the centers of voxels in 26 directions, and a crossing lies between two
neighbors on a line of which one is in the object. This needs no mesh and no smoothing, and is known
for its small bias: by orientation, flat faces are measured 8% too small (along the axes) to 4% too
large, and the mean over all orientations is right, as on round objects. A mesh of marching cubes on
the same voxels is 8% too large on spheres, and more than 20% if voxels are flat; faces of voxels
are 50% too large.

References: G. Lang and J. Ohser, Acta Stereologica 2001; D. Legland, K. Kiêu and M.-F. Devaux,
Image Analysis & Stereology 26 (2007), which MorphoLibJ implements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import SphericalVoronoi

from cellmap_pipeline.geometry import Shape, Vector, shape_of

# Voxels are at most this many times longer along one axis than along another; of longer ones, the
# directions are less even.
MAX_STEP_VOXELS = 16


@dataclass(frozen=True)
class LineDirections:
    """Directions of lines through a grid.

    Attributes
    ----------
    steps
        (26, 3) int, z, y, x: from a voxel to the next one on a line, in voxels.
    areas
        (26,) surface per crossing from the inside to the outside, nm².
    """

    steps: NDArray[np.int64]
    areas: NDArray[np.float64]

    @property
    def reach(self) -> Shape:
        """Largest step along each axis, in voxels."""
        return shape_of(self.steps.max(axis=0))


@cache
def line_directions(voxel_size: Vector) -> LineDirections:
    """Choose directions that are evenly spread in space, whatever the voxel size (nm, z, y, x).

    On cubic voxels, they lead to the 26 neighbors. Along the short axes of flat voxels, a step
    is of several voxels.
    """
    neighbors = np.array([step for step in product((-1, 0, 1), repeat=3) if any(step)])
    factors = np.max(voxel_size) / np.array(voxel_size)
    steps = neighbors * np.rint(factors).astype(int).clip(1, MAX_STEP_VOXELS)
    vectors = steps * np.array(voxel_size)
    lengths = np.linalg.norm(vectors, axis=1)
    # Each direction stands for the part of the unit sphere that is nearest to it.
    shares = SphericalVoronoi(vectors / lengths[:, None]).calculate_areas() / (4 * np.pi)
    # The mean of |cos| over the sphere is ½, and each crossing stands for its part of the plane
    # across the line. Crossings to the outside are half of all.
    return LineDirections(steps, 4 * shares * float(np.prod(voxel_size)) / lengths)


def exit_areas(
    padded: NDArray, foreground: NDArray[np.intp], lines: LineDirections, count: int
) -> NDArray[np.float64]:
    """Add up the surface of each object in a block.

    Parameters
    ----------
    padded
        (z, y, x) numbers of objects from 0 to `count`, 0 in the background, with at least
        `lines.reach` voxels around the block.
    foreground
        Indices, in the flattened array, of all voxels of objects in the block.
    lines
        Directions of the lines.
    count
        Number of objects.

    Returns
    -------
    (count + 1,) area of each number, nm².
    """
    flat = padded.ravel()
    own = flat[foreground]
    total = np.zeros(count + 1)
    for shift, area in zip(_shifts(lines.steps, padded.shape), lines.areas, strict=True):
        is_exit = flat[foreground + shift] != own
        total += area * np.bincount(own[is_exit], minlength=count + 1)
    return total


def _shifts(steps: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.int64]:
    """Convert steps to differences of indices in a flattened array."""
    return steps @ np.array([shape[1] * shape[2], shape[2], 1])
