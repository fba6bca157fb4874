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

from cellmap_pipeline.geometry import pair_slices
from cellmap_pipeline.segmentation.agglomeration import Faces
from cellmap_pipeline.segmentation.long_range import LongRange

# Probabilities by channel, uint8 (z, y, x), 0..255 = 0..1.
Channels = Mapping[str, NDArray[np.uint8]]
# Three lengths in nm (z, y, x).
Lengths = Sequence[float]


# The strongest attraction in the mutex watershed, in units of the strongest repulsion. Fragments
# that it splits by mistake are merged afterwards, but none that it merges are split.
MAX_ATTRACTION = 0.5
# Avoids a division by zero; there is no affinity above 1 or below 0.
TINY = 1e-6


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
    long_range
        The probability of a boundary between voxels at a distance, by offset.
    affinities
        Only for the mutex watershed: float64 (n, z, y, x), how much each voxel p and the voxel
        p - offset attract (above 0) or repel each other (below 0), by offset: those of the three
        axes, then those of `long_range`.
    """

    inside: NDArray[np.bool_]
    seedable: NDArray[np.bool_]
    height: NDArray[np.float32] | None = None
    faces: Faces | None = None
    long_range: Sequence[LongRange] = ()
    affinities: NDArray[np.float64] | None = None

    def cropped(self, box: Sequence[slice]) -> Landscape:
        """Return the part of the landscape in a box (slices along z, y and x)."""
        z, y, x = box
        return Landscape(
            self.inside[z, y, x],
            self.seedable[z, y, x],
            None if self.height is None else self.height[z, y, x],
            None if self.faces is None else _cropped_faces(self.faces, box),
            [LongRange(pairs.offset, pairs.boundary[z, y, x]) for pairs in self.long_range],
            None if self.affinities is None else self.affinities[:, z, y, x],
        )


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
    boundaries: Sequence[NDArray[np.float32]],
    long_range: Sequence[LongRange],
    inside: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.float64]:
    """Return by how much pairs of voxels attract (above 0) or repel (below 0) each other.

    An affinity counts by its distance from `threshold`, as a fraction of the largest one possible;
    attraction counts less than repulsion (`MAX_ATTRACTION`). Objects and the outside repel each
    other. Voxels at a distance only repel each other (Wolf et al. 2018,
    doi:10.1007/978-3-030-01225-0_34): that both are of one object does not tell that the voxels
    between them are.

    Parameters
    ----------
    boundaries
        By axis, the probability of a boundary between each voxel and the previous one.
    long_range
        That between voxels at a distance.
    inside
        Where objects are.
    threshold
        Affinity (0..1) above which neighbors attract each other.
    """
    affinities = np.zeros((len(boundaries) + len(long_range), *inside.shape))
    for axis, boundary in enumerate(boundaries):
        affinities[axis] = _relative(boundary, threshold)
        both = _all_but_one(inside, axis, 0) & _all_but_one(inside, axis, 1)
        np.copyto(_all_but_one(affinities[axis], axis, 1), -1.0, where=~both)
    for values, pairs in zip(affinities[len(boundaries) :], long_range, strict=True):
        here, there = pair_slices(inside.shape, pairs.offset)
        both = inside[here] & inside[there]
        values[here] = np.minimum(_relative(pairs.boundary[here], threshold), 0) * both
    return affinities


def _relative(boundary: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Return affinities, given as probabilities of a boundary, relative to a threshold.

    They range from -1, the strongest repulsion, to `MAX_ATTRACTION`.
    """
    difference = np.float32(1 - threshold) - boundary
    attraction = np.float32(MAX_ATTRACTION / max(1 - threshold, TINY))
    repulsion = np.float32(1 / max(threshold, TINY))
    return difference * np.where(difference > 0, attraction, repulsion)


def to_faces(boundaries: Sequence[NDArray[np.float32]]) -> Faces:
    """Return values between each voxel and the previous one, given by axis, on the faces."""
    return lambda axis: _all_but_one(boundaries[axis], axis, 1)


def _cropped_faces(faces: Faces, box: Sequence[slice]) -> Faces:
    def cropped(axis: int) -> NDArray[np.float32]:
        between = [slice(s.start, s.stop - (a == axis)) for a, s in enumerate(box)]
        return faces(axis)[tuple(between)]

    return cropped


def _all_but_one(values: NDArray[Any], axis: int, first: int) -> NDArray[Any]:
    """Return all planes along an axis but the last (`first` is 0) or the first (1)."""
    n = values.shape[axis] - 1
    return values[(slice(None),) * axis + (slice(first, first + n),)]
