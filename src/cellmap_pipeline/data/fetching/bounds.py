"""Bounds of what is fetched for a crop, checked before any chunk of it is requested.

The box of raw follows from the shapes of the labels, so a wrong one would fetch much of a volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cellmap_pipeline.data.fetching.levels import ArrayLevel
from cellmap_pipeline.data.manifest import MAX_CROP_VOXELS
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector

# In all 289 training crops of the challenge, all labels span the same box.
MAX_EXTENT_RATIO = 2
MAX_RAW_RATIO = 1.25
# Decoded size of what is fetched for a crop.
MAX_CROP_BYTES = 2**40
REMEDY = "correct its metadata, or leave the crop out"


def check_label_extents(levels: Sequence[ArrayLevel]) -> None:
    """Compare the labels of a crop with each other.

    Raises
    ------
    InputError
        One has more voxels than any crop, or is much larger than another one.
    """
    for level in levels:
        if level.grid.size > MAX_CROP_VOXELS:
            raise InputError(
                f"{level.key} has a shape of {list(level.grid.shape)}, larger than any crop: "
                f"{REMEDY}"
            )
    for axis in range(3):
        ordered = sorted(levels, key=lambda level: _extent(level.grid)[axis])
        small, large = (_extent(level.grid)[axis] for level in (ordered[0], ordered[-1]))
        # A label may end within a coarse voxel.
        voxel = max(level.grid.voxel_size[axis] for level in levels)
        if large > MAX_EXTENT_RATIO * (small + voxel):
            raise InputError(
                f"{ordered[-1].key} spans {large:g} nm along {'zyx'[axis]}, but {ordered[0].key}, "
                f"of the same crop, {small:g} nm: one of the shapes or voxel sizes is wrong; "
                f"{REMEDY}"
            )


def check_raw_extents(raw: ArrayLevel, extents: Iterable[Grid], crop: int) -> None:
    """Compare the boxes of a crop with the volume that they lie in.

    Raises
    ------
    InputError
        A box lies outside the volume, or is larger.
    """
    for extent in extents:
        if not raw.grid.overlaps(extent):
            raise InputError(f"crop {crop} lies outside {raw.key}: check its translation")
        pairs = zip(_extent(extent), _extent(raw.grid), raw.voxel_size, strict=True)
        if any(size > MAX_RAW_RATIO * (all_raw + voxel) for size, all_raw, voxel in pairs):
            raise InputError(
                f"crop {crop} spans {_text(extent)}, more than all of {raw.key}, which spans "
                f"{_text(raw.grid)}: a shape or a voxel size of its labels is wrong; {REMEDY}"
            )


def check_total(n_bytes: int, crop: int) -> None:
    """Bound the size of all that is fetched for a crop.

    Parameters
    ----------
    n_bytes
        Size of the chunks, decoded.
    crop
        Number of the crop.

    Raises
    ------
    InputError
        It is too large.
    """
    if n_bytes > MAX_CROP_BYTES:
        raise InputError(
            f"crop {crop}: {n_bytes / 1e9:,.0f} GB would be fetched, more than "
            f"{MAX_CROP_BYTES / 1e9:,.0f} GB: the shape of a label is wrong, or `fetch.padding` is "
            "too large"
        )


def _extent(grid: Grid) -> Vector:
    z, y, x = (n * v for n, v in zip(grid.shape, grid.voxel_size, strict=True))
    return z, y, x


def _text(grid: Grid) -> str:
    return " × ".join(f"{size:g}" for size in _extent(grid)) + " nm"
