"""Intensities to import: raw of 8 bits, or scaled to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.data.importing.sources.source import VolumeSource
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, shape_of
from cellmap_pipeline.io.resampling import resample

# Voxels of the middle section by which a range is proposed, and their percentiles that are.
MAX_SAMPLE_SIDE = 1024
PROPOSED_PERCENTILES = (0.1, 99.9)
MAX_UINT8 = 255

# Intensities that become 0 and 255.
Limits = tuple[float, float]


class Raw:
    """How the voxels of raw are written; see `VolumeKind`.

    Parameters
    ----------
    source
        The volume.
    limits
        Intensities that become 0 and 255; None for raw of 8 bits.

    Raises
    ------
    InputError
        The voxels must be scaled, but there are no limits; or these are no range.
    """

    dtype = "uint8"
    # Chunks that are missing would count as not copied.
    stores_zeros = True

    def __init__(self, source: VolumeSource, limits: Limits | None = None) -> None:
        if limits and not (limits[0] < limits[1] and np.isfinite(limits).all()):
            raise InputError(
                f"--range {limits[0]:g} {limits[1]:g} is no range: give two finite numbers, the "
                "lower one first"
            )
        if source.dtype.kind not in "iuf":
            raise InputError(
                f"{source.name} is {source.dtype}, but intensities are numbers: convert it"
            )
        if source.dtype != np.uint8 and limits is None:
            low, high = np.nanpercentile(_middle_voxels(source), PROPOSED_PERCENTILES)
            raise InputError(
                f"{source.name} is {source.dtype}, but raw is imported as uint8: give --range LOW "
                "HIGH, the values that become 0 and 255, the same for all volumes that are used "
                f"together (most voxels in its middle are {low:.6g} to {high:.6g})"
            )
        self.name = source.name
        self.limits = limits

    def convert(self, values: NDArray) -> NDArray:
        """Scale a part of the volume.

        Raises
        ------
        InputError
            A value is NaN.
        """
        if self.limits is None:
            return values
        low, high = self.limits
        precise = np.float32 if values.dtype.itemsize <= 2 else np.float64
        scaled = np.empty(shape_of(values.shape), np.uint8)
        # Section by section, since floats take several times the memory.
        for plane, section in zip(scaled, values, strict=True):
            parts = (section.astype(precise) - low) * (MAX_UINT8 / (high - low))
            if np.isnan(parts).any():
                raise InputError(f"{self.name} holds NaN, which is no intensity: replace it")
            plane[:] = np.rint(parts.clip(0, MAX_UINT8))
        return scaled

    def downsample(self, values: NDArray, source: Grid, target: Grid) -> NDArray:
        """Average over the voxels of a coarser grid."""
        return np.rint(resample(values, source, target)).astype(values.dtype)

    def count(self, level: int, values: NDArray) -> None:
        """Nothing is counted."""

    def finish(self, path: Path) -> None:
        """Nothing is added."""


def _middle_voxels(source: VolumeSource) -> NDArray:
    sides = (1, MAX_SAMPLE_SIDE, MAX_SAMPLE_SIDE)
    start = [max(0, (n - side) // 2) for n, side in zip(source.shape, sides, strict=True)]
    stop = [min(n, a + side) for n, a, side in zip(source.shape, start, sides, strict=True)]
    return source.read(start, stop)
