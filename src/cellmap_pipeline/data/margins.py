"""The width of the raw that is read around crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cellmap_pipeline.geometry import Shape, Vector, shape_of


@dataclass(frozen=True)
class RawMargins:
    """Sizes that decide how much raw is read around a crop; z, y, x in the reader's voxels.

    Attributes
    ----------
    window
        Sliding window of a prediction; a smaller crop lies in its center.
    context
        Width that a prediction reads on each side of a crop.
    patch
        Training patch; a smaller crop may lie anywhere in it.
    rotation
        Width that is read on each side of a patch to rotate or scale it.
    """

    window: Shape = (1, 1, 1)
    context: Shape = (0, 0, 0)
    patch: Shape = (1, 1, 1)
    rotation: Shape = (0, 0, 0)

    @classmethod
    def fixed(cls, padding_nm: float, voxel_size: Vector) -> RawMargins:
        """Return margins of the same width around every crop, rounded up to whole voxels."""
        return cls(context=shape_of(math.ceil(padding_nm / v) for v in voxel_size))

    def widened(self, voxels: Shape) -> RawMargins:
        """Return margins that are `voxels` wider on each side of a crop."""
        return replace(
            self,
            window=shape_of(n + 2 * v for n, v in zip(self.window, voxels, strict=True)),
            context=shape_of(n + v for n, v in zip(self.context, voxels, strict=True)),
            rotation=shape_of(n + v for n, v in zip(self.rotation, voxels, strict=True)),
        )

    def around(self, crop: Shape) -> Shape:
        """Return the width (voxels) of the raw that is read on each side of a crop."""
        return shape_of(
            max(context, math.ceil((window - n) / 2), max(0, patch - n) + rotation)
            for n, window, context, patch, rotation in zip(
                crop, self.window, self.context, self.patch, self.rotation, strict=True
            )
        )

    def mirrored_patch(self, crop: Shape, padding: Sequence[float]) -> float:
        """Return the share of a patch that lies beyond `padding` (voxels) around a crop.

        This is the mean over all places of the patch, neither rotated nor scaled.
        """
        inside = 1.0
        for n, patch, width in zip(crop, self.patch, padding, strict=True):
            inside *= 1 - 2 * _mean_above(width, max(0, patch - n)) / patch
        return 1 - inside

    def mirrored_window(self, crop: Shape, padding: Sequence[float]) -> float:
        """Return the share of a window around a smaller crop that lies beyond `padding` (voxels).

        Around larger crops nothing is mirrored: prediction begins where raw does.
        """
        inside = 1.0
        for n, window, width in zip(crop, self.window, padding, strict=True):
            inside *= 1 - max(0.0, window - n - 2 * width) / window
        return 1 - inside


def _mean_above(limit: float, high: float) -> float:
    """Return the mean of max(0, x - limit) for x evenly distributed over 0..high."""
    return (high - limit) ** 2 / (2 * high) if high > limit else 0.0
