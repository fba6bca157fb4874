"""Normalization of raw: from a volume's own intensities to the scale that all networks expect.

Intensities pass through four units:

raw
    0..1 over the range of the stored type, as `Volume.read_raw` returns them.
window
    0..1 over the intensities that the volume uses, clipped. Augmentation keeps raw in it
    (`patches.augmentation.intensity`), so that it is as strong for raw that uses 4 % of its range.
standardized
    What a network's task takes (`training.task.SegmentationTask.forward`).
network input
    (standardized - 0.5) · 4, which the task computes; ranges of the augmentation are in this unit.

With `normalize: range`, raw, window and standardized are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.config.augmentation import NORMALIZATION
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Vector
from cellmap_pipeline.io.raw_statistics import VolumeStatistics
from cellmap_pipeline.io.volumes import Volume

Float32 = TypeVar("Float32", NDArray[np.float32], Tensor)

INPUT_CENTER, INPUT_SCALE = NORMALIZATION
# The window reaches this fraction of the distance between the percentiles 0.5 and 99.5 beyond them.
# The standard deviation of normally distributed raw is then 0.16 of the window, as that of FIB-SEM
# raw of 8 bits is 0.15 to 0.2 of its range: augmentation is as strong.
WINDOW_MARGIN = 1 / 8


@dataclass(frozen=True)
class Normalization:
    """How raw of one volume is normalized.

    Attributes
    ----------
    low, high
        Raw at 0 and 1 of the window.
    center
        Raw that is standardized to 0.5.
    width
        Difference in raw that is standardized to 1.
    """

    low: float = 0.0
    high: float = 1.0
    center: float = 0.5
    width: float = 1.0

    @property
    def window_to_input(self) -> tuple[float, float]:
        """Center and scale by which values in the window become network input."""
        extent = self.high - self.low
        return (self.center - self.low) / extent, INPUT_SCALE * extent / self.width

    def to_window(self, raw: Tensor) -> None:
        """Convert raw to the window in place, clipped to 0..1."""
        if self != BY_RANGE:
            raw.sub_(self.low).div_(self.high - self.low).clamp_(0, 1)

    def standardize_window(self, values: Tensor) -> None:
        """Convert values in the window to standardized ones in place."""
        if self != BY_RANGE:
            values.mul_((self.high - self.low) / self.width)
            values.add_((self.low - self.center) / self.width + INPUT_CENTER)

    def standardize(self, raw: Float32) -> Float32:
        """Convert raw, float32, to standardized values, clipped to the window."""
        if self == BY_RANGE:
            return raw
        # Numbers of Python leave float32 as it is, which the types of NumPy do not tell.
        clipped: Any = raw.clip(self.low, self.high)
        return (clipped - self.center) / self.width + INPUT_CENTER


BY_RANGE = Normalization()


def normalization_of(
    mode: str, raw: Volume, voxel_size: Vector, statistics: VolumeStatistics | None
) -> Normalization:
    """Return how a training normalizes a volume.

    Parameters
    ----------
    mode
        `normalize` of the training's file.
    raw
        The volume.
    voxel_size
        Voxel size of the training, nm: the statistics of the level that it reads are used.
    statistics
        Statistics of the volume's levels; not needed by `range`.

    Raises
    ------
    InputError
        There are no statistics of the level, or it has no contrast.
    """
    if mode == "range":
        return BY_RANGE
    level = raw.level_for(voxel_size)
    measured = (statistics or {}).get(level.path.name)
    if measured is None:
        raise InputError(
            f"`normalize: {mode}` needs the statistics of {level.path}, but there are none: it was "
            "fetched or changed after they were made, or has no data; measure again with "
            "`--forcerun raw_statistics training_raw_statistics`"
        )
    low, high = measured.percentile_00_5, measured.percentile_99_5
    if not low < high:
        raise InputError(
            f"{level.path} cannot be normalized: 99% of its voxels are {low:g} (of 0 to 1), so it "
            "shows nothing: leave its crops out, or set `normalize: range`"
        )
    margin = WINDOW_MARGIN * (high - low)
    if mode == "zscore":
        # The standard deviation of network input is 1.
        center, width = measured.mean, INPUT_SCALE * measured.std
    else:
        center, width = (low + high) / 2, high - low
    return Normalization(low - margin, high + margin, center, width)
