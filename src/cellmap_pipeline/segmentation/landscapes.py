"""Landscapes: where objects, their seeds and the ridges between them are, voxel by voxel.

The same landscape serves a whole volume in memory and windows of a large one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellmap_pipeline.segmentation.agglomeration import Faces

# Probabilities by channel, uint8 (z, y, x), 0..255 = 0..1.
Channels = Mapping[str, NDArray[np.uint8]]
# Three lengths in nm (z, y, x).
Lengths = Sequence[float]


@dataclass(frozen=True)
class Landscape:
    """Volumes in which a method finds fragments.

    Attributes
    ----------
    inside
        bool (z, y, x), where objects are.
    seedable
        bool (z, y, x), where seeds may lie.
    height
        float32 (z, y, x), the probability of a boundary. None: the height is the negative distance
        to the outside.
    faces
        The probability of a boundary on the faces of voxels, by axis; None as for `height`.
    affinities
        Only for the mutex watershed: float64 (3, z, y, x), by axis how much each voxel and the
        previous one attract (above 0) or repel each other (below 0).
    """

    inside: NDArray[np.bool_]
    seedable: NDArray[np.bool_]
    height: NDArray[np.float32] | None = None
    faces: Faces | None = None
    affinities: NDArray[np.float64] | None = None


def above(probability: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Find where a probability (0..255) is at least `threshold` (0..1), safe against rounding."""
    return probability >= round(255 * threshold, 6)


def smooth(probability: NDArray[np.uint8], voxel_size: Lengths, sigma_nm: float) -> NDArray[Any]:
    """Smooth probabilities (0..255) by a Gaussian, as float32; unchanged if `sigma_nm` is 0."""
    if sigma_nm == 0:
        return probability
    sigma = [sigma_nm / v for v in voxel_size]
    return ndimage.gaussian_filter(probability, sigma, output=np.float32, truncate=3)


def channel_reader(
    channels: Channels, voxel_size: Lengths, sigma_nm: float
) -> Callable[[str], NDArray[np.float32]]:
    """Return a function from a channel's name to its smoothed probability, float32, 0..1."""

    def read(channel: str) -> NDArray[np.float32]:
        probability = smooth(channels[channel], voxel_size, sigma_nm)
        return probability.astype(np.float32) / np.float32(255)

    return read


def values_on_faces(values: NDArray[np.float32], lowest: bool = False) -> Faces:
    """Return by axis the mean (or the lower one) of the `values` (z, y, x) of two neighbors."""

    def faces(axis: int) -> NDArray[np.float32]:
        before, after = _all_but_one(values, axis, 0), _all_but_one(values, axis, 1)
        return np.minimum(before, after) if lowest else (before + after) / 2

    return faces


def uncertainty_ridge(probability: NDArray[Any], threshold: float) -> NDArray[np.float32]:
    """Return the height of ridges due to uncertain objects: 1/2 at the threshold, 0 at twice that.

    Where an object is unlikely, there may be a boundary. The height is relative to the threshold,
    so that a network that is seldom certain of an object still leaves room for seeds.
    """
    certain = min(1.0, 2 * threshold)
    if certain == threshold:
        return np.zeros(probability.shape, np.float32)
    value = probability.astype(np.float32) / np.float32(255)
    return np.float32(0.5) * (np.float32(certain) - value) / np.float32(certain - threshold)


def signed_affinities(
    boundaries: Sequence[NDArray[np.float32]], inside: NDArray[np.bool_], threshold: float
) -> NDArray[np.float64]:
    """Return affinities relative to `threshold`; objects and the outside repel each other.

    Parameters
    ----------
    boundaries
        By axis, the probability of a boundary between each voxel and the previous one.
    inside
        Where objects are.
    threshold
        Affinity (0..1) above which neighbors attract each other.
    """
    affinities = np.stack([1 - threshold - b for b in boundaries]).astype(np.float64)
    for axis in range(3):
        both = _all_but_one(inside, axis, 0) & _all_but_one(inside, axis, 1)
        np.copyto(_all_but_one(affinities[axis], axis, 1), -1.0, where=~both)
    return affinities


def to_faces(boundaries: Sequence[NDArray[np.float32]]) -> Faces:
    """Return values between each voxel and the previous one, given by axis, on the faces."""
    return lambda axis: _all_but_one(boundaries[axis], axis, 1)


def _all_but_one(values: NDArray[Any], axis: int, first: int) -> NDArray[Any]:
    """Return all planes along an axis but the last (`first` is 0) or the first (1)."""
    n = values.shape[axis] - 1
    return values[(slice(None),) * axis + (slice(first, first + n),)]
