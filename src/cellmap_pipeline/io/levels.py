"""The choice of the level of a multiscale volume that is read at a given voxel size.

Training and prediction read the one of `level_to_read`, validation that of `nearest_level`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cellmap_pipeline.geometry import TOLERANCE_VOXELS, size_ratio

ROUNDING_FACTOR = 1 + TOLERANCE_VOXELS


def level_to_read(voxel_sizes: Sequence[Sequence[float]], wanted: Sequence[float]) -> int:
    """Index of the coarsest level that is as fine as `wanted`, or 0 if none is.

    Parameters
    ----------
    voxel_sizes
        Voxel sizes of all levels, nm (z, y, x), finest first.
    wanted
        Voxel size to read at, nm (z, y, x).
    """
    fine = [i for i, size in enumerate(voxel_sizes) if is_as_fine(size, wanted)]
    return fine[-1] if fine else 0


def nearest_level(voxel_sizes: Sequence[Sequence[float]], wanted: Sequence[float]) -> int:
    """Index of the level whose voxel size is nearest to `wanted`, the first of equally near ones.

    Parameters
    ----------
    voxel_sizes
        Voxel sizes of all levels, nm (z, y, x), finest first.
    wanted
        Voxel size to read at, nm (z, y, x).
    """
    ratios = [size_ratio(size, wanted) for size in voxel_sizes]
    return ratios.index(min(ratios))


def is_as_fine(
    voxel_size: Sequence[float], wanted: Sequence[float], factor: float = ROUNDING_FACTOR
) -> bool:
    """Whether a voxel size is at most `factor` times the wanted one on every axis."""
    return all(size <= w * factor for size, w in zip(voxel_size, wanted, strict=True))
