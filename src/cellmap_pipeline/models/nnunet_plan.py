"""nnU-Net's rules for the stages of a U-Net (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z).

Nothing here imports torch, since patch sizes are checked while Snakemake parses.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import NamedTuple

from cellmap_pipeline.geometry import Shape, shape_of

# No axis is halved to fewer voxels.
MIN_STAGE_VOXELS = 4
# Axes whose voxels are shorter than this many times the finest are halved, and convolved over.
MAX_SPACING_RATIO = 2.0
# A single axis is halved only from this many voxels on.
MIN_SINGLE_AXIS_VOXELS = 3 * MIN_STAGE_VOXELS


class Stages(NamedTuple):
    """The stages of a U-Net, from the full resolution to the coarsest.

    Attributes
    ----------
    strides
        Per stage, the stride (z, y, x) from the stage before it; that of the first is 1.
    kernels
        Per stage, the size (z, y, x) of its kernels.
    """

    strides: tuple[Shape, ...]
    kernels: tuple[Shape, ...]

    @property
    def total_stride(self) -> Shape:
        """Input voxels (z, y, x) per voxel of the coarsest stage."""
        return shape_of(map(prod, zip(*self.strides, strict=True)))


def plan_stages(patch_size: Sequence[int], voxel_size: Sequence[float]) -> Stages:
    """Plan the stages of a network for patches of this size.

    Each stage halves the axes with the finest voxels, until all are within a factor of two. Kernels
    are 1 along an axis that is coarser, and 3 from the first stage at which it is not.

    Parameters
    ----------
    patch_size
        Voxels along z, y, x.
    voxel_size
        Size of a voxel, nm.

    Raises
    ------
    ValueError
        The patch is too small for more than one stage.
    """
    size, spacing = list(patch_size), list(voxel_size)
    strides, kernels = [(1, 1, 1)], []
    is_convolved = [False] * 3
    while halved := _axes_to_halve(size, spacing):
        finest = min(spacing)
        for axis in range(3):
            is_convolved[axis] |= spacing[axis] < MAX_SPACING_RATIO * finest
        kernels.append(shape_of(3 if convolved else 1 for convolved in is_convolved))
        strides.append(shape_of(2 if axis in halved else 1 for axis in range(3)))
        for axis in halved:
            size[axis] = ceil(size[axis] / 2)
            spacing[axis] *= 2
    if not kernels:
        raise ValueError(
            "is too small for this network: give at least "
            f"{MIN_SINGLE_AXIS_VOXELS} voxels along the axes of the smallest voxel size"
        )
    return Stages(tuple(strides), (*kernels, (3, 3, 3)))


def _axes_to_halve(size: list[int], spacing: list[float]) -> list[int]:
    """List the axes that the next stage halves; none after the last stage."""
    divisible = [axis for axis in range(3) if size[axis] >= 2 * MIN_STAGE_VOXELS]
    finest = min((spacing[axis] for axis in divisible), default=0.0)
    axes = [axis for axis in divisible if spacing[axis] < MAX_SPACING_RATIO * finest]
    if len(axes) == 1 and size[axes[0]] < MIN_SINGLE_AXIS_VOXELS:
        return []
    return axes
