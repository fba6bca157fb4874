"""Pieces of objects, found by watersheds of what a network predicts: the slow half of instances.

Each method has a landscape: where objects are, where seeds of them may lie, and how high the ridges
between them are. The same landscape serves a whole volume in memory and windows of a large one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cc3d
import edt
import mwatershed
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from cellmap_pipeline.channels import AFFINITY_SUFFIXES, BOUNDARY_SUFFIX, DISTANCE_SUFFIX
from cellmap_pipeline.segmentation.agglomeration import Contacts, Faces, contacts
from cellmap_pipeline.segmentation.methods import Settings

Channels = Mapping[str, NDArray[np.uint8]]
Lengths = Sequence[float]


@dataclass(frozen=True)
class Fragments:
    """Pieces of objects.

    Attributes
    ----------
    labels
        int32 or uint32 (z, y, x), 1..n.
    sizes
        int64 (n + 1,), voxels of each piece and, first, of the background.
    links
        Their contacts. `watershed_distance`: `highest` is the radius of the neck between two, nm.
        Methods of boundaries: `mean` is the boundary probability on the shared faces.
    radius
        float32 (n + 1,), largest distance of each piece from the outside, nm.
    """

    labels: NDArray[Any]
    sizes: NDArray[np.int64]
    links: Contacts | None = None
    radius: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Landscape:
    """What fragments are found in.

    Attributes
    ----------
    inside
        bool (z, y, x), where objects are.
    seeding
        bool (z, y, x), where seeds may lie.
    height
        float32 (z, y, x), the probability of a boundary; None where basins are deep as voxels are
        far from the outside.
    faces
        The same on the faces of voxels, by axis; None as `height`.
    affinity
        Of `mutex_watershed`: float64 (3, z, y, x), how much each voxel and the one before it along
        an axis belong together, above 0, or apart.
    """

    inside: NDArray[np.bool_]
    seeding: NDArray[np.bool_]
    height: NDArray[np.float32] | None = None
    faces: Faces | None = None
    affinity: NDArray[np.float64] | None = None


def above(probability: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Where a probability of 0..255 is at least `threshold` of 1, whatever rounding does."""
    return probability >= round(255 * threshold, 6)


def smoothed(probability: NDArray[np.uint8], voxel_size: Lengths, sigma_nm: float) -> NDArray[Any]:
    """The probabilities (0..255) as they are, or by a Gaussian of `sigma_nm` as float32."""
    if sigma_nm == 0:
        return probability
    sigma = [sigma_nm / v for v in voxel_size]
    return ndimage.gaussian_filter(probability, sigma, output=np.float32, truncate=3)


def landscape(label: str, channels: Channels, voxel_size: Lengths, settings: Settings) -> Landscape:
    """The landscape of a method; depends on `postprocess.FRAGMENT_SETTINGS` alone."""
    method, sigma = settings["method"], settings["smooth_nm"]
    probability = smoothed(channels[label], voxel_size, sigma)
    inside = above(probability, settings["threshold"])
    if method in ("connected_components", "watershed_distance"):
        return Landscape(inside, inside)

    def share(channel: str) -> NDArray[np.float32]:
        return smoothed(channels[channel], voxel_size, sigma).astype(np.float32) / np.float32(255)

    height: NDArray[np.float32]
    if method in ("watershed_affinities", "mutex_watershed"):
        apart = [1 - share(label + suffix) for suffix in AFFINITY_SUFFIXES]
        if method == "mutex_watershed":
            affinity = _attraction(apart, inside, settings["affinity_threshold"])
            return Landscape(inside, inside, faces=_before(apart), affinity=affinity)
        height = np.mean(apart, axis=0, dtype=np.float32)
        faces = _before(apart)
    elif method == "watershed_learned_distance":
        height = 1 - share(label + DISTANCE_SUFFIX)
        faces = between(height)
    else:
        height = share(label + BOUNDARY_SUFFIX)
        faces = between(height)
    np.maximum(height, _doubt(probability, settings["threshold"]), out=height)
    return Landscape(inside, inside & (height < settings["seed_threshold"]), height, faces)


def fragments(
    label: str, channels: Channels, voxel_size: Lengths, settings: Settings, threads: int = 1
) -> Fragments:
    """The pieces that the objects of an instance label are made of.

    Watersheds start at the maxima of a distance transform (for boundaries, of the distance to
    them, as in Beier et al. 2017, doi:10.1038/nmeth.4151). The mutex watershed is that of Wolf et
    al. 2018 (doi:10.1007/978-3-030-01225-0_34). Depends on those of the (complete) `settings`
    that `postprocess.FRAGMENT_SETTINGS` names.
    """
    land = landscape(label, channels, voxel_size, settings)
    if settings["method"] == "connected_components":
        labels = components(land.inside, 26)
        return Fragments(labels, sizes_of(labels))
    if land.affinity is not None:
        assert land.faces
        labels = mutexed(land)
        return Fragments(labels, sizes_of(labels), contacts(labels, land.faces))
    distance = distance_in(land.seeding, voxel_size, threads)
    np.minimum(distance, np.float32(farthest(land.inside.shape, voxel_size)), out=distance)
    distance = smoothed_distance(distance, voxel_size)
    seeds = components(maxima(distance) & land.seeding, 26)
    labels = flooded(land, distance, seeds)
    if land.faces is not None:
        return Fragments(labels, sizes_of(labels), contacts(labels, land.faces))
    links = contacts(labels, between(distance, lowest=True))
    return Fragments(labels, sizes_of(labels), links, highest(distance, labels))


def flooded(
    land: Landscape, distance: NDArray[np.float32], seeds: NDArray[Any]
) -> NDArray[np.int32]:
    """Basins of the seeds; parts of the inside without a seed are basins of their own."""
    height = -distance if land.height is None else land.height
    labels = watershed(height, seeds.astype(np.int32), mask=land.inside)
    left = components(land.inside & (labels == 0), 6)
    return np.where(left != 0, left.astype(np.int32) + labels.max(), labels)


def mutexed(land: Landscape) -> NDArray[Any]:
    """Pieces that attract one another within, 1..n."""
    assert land.affinity is not None
    before = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    labels = mwatershed.agglom(land.affinity, before)
    labels[~land.inside] = 0
    # What attracts no neighbour comes without a label.
    alone = np.flatnonzero((labels == 0) & land.inside)
    labels.ravel()[alone] = labels.max() + np.arange(1, alone.size + 1, dtype=labels.dtype)
    # In scan order, not in that of the library.
    return cc3d.connected_components(labels, connectivity=26, out_dtype=np.uint32)


def distance_in(
    inside: NDArray[np.bool_], voxel_size: Lengths, threads: int
) -> NDArray[np.float32]:
    """Distance (nm) from the outside; infinite where nothing is outside."""
    return edt.edt(np.ascontiguousarray(inside), anisotropy=tuple(voxel_size), parallel=threads)


def farthest(shape: Sequence[int], voxel_size: Lengths) -> float:
    """The longest distance (nm) in a volume, which stands for an infinite one."""
    return math.hypot(*(v * n for v, n in zip(voxel_size, shape, strict=True)))


def smoothed_distance(distance: NDArray[np.float32], voxel_size: Lengths) -> NDArray[np.float32]:
    """Distances smoothed by a voxel, so that steps make no false maxima."""
    sigma = [min(voxel_size) / v for v in voxel_size]
    return ndimage.gaussian_filter(distance, sigma, truncate=3)


def maxima(distance: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels that no neighbour exceeds."""
    return ndimage.maximum_filter(distance, 3) == distance


def between(values: NDArray[np.float32], lowest: bool = False) -> Faces:
    """By axis, the means (or the lower) of `values` (z, y, x) of neighbours."""

    def faces(axis: int) -> NDArray[np.float32]:
        before, after = _part(values, axis, 0), _part(values, axis, 1)
        return np.minimum(before, after) if lowest else (before + after) / 2

    return faces


def components(inside: NDArray[np.bool_], connectivity: Literal[6, 26]) -> NDArray[Any]:
    """Connected components, 1..n in scan order."""
    # As uint8: for bool, cc3d (4.1.1) counts too few provisional labels in thin volumes and fails.
    return cc3d.connected_components(inside.view(np.uint8), connectivity=connectivity)


def sizes_of(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Voxels by label."""
    return np.bincount(labels.ravel(), minlength=1)


def highest(values: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float32]:
    """Largest value within each label."""
    top = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(top, labels.ravel(), values.ravel())
    return top


def _doubt(probability: NDArray[Any], threshold: float) -> NDArray[np.float32]:
    """Where an object is unlikely, there may be a boundary: 1/2 at the threshold, 0 at twice that.

    So a network that is seldom sure of an object still leaves room for seeds.
    """
    certain = min(1.0, 2 * threshold)
    if certain == threshold:
        return np.zeros(probability.shape, np.float32)
    value = probability.astype(np.float32) / np.float32(255)
    return np.float32(0.5) * (np.float32(certain) - value) / np.float32(certain - threshold)


def _attraction(
    apart: Sequence[NDArray[np.float32]], inside: NDArray[np.bool_], threshold: float
) -> NDArray[np.float64]:
    """Affinities above `threshold` as attraction; nothing holds an object to the outside."""
    affinity = np.stack([1 - threshold - a for a in apart]).astype(np.float64)
    for axis in range(3):
        both = _part(inside, axis, 0) & _part(inside, axis, 1)
        np.copyto(_part(affinity[axis], axis, 1), -1.0, where=~both)
    return affinity


def _before(apart: Sequence[NDArray[np.float32]]) -> Faces:
    """What is known of each voxel and the one before it, on the faces."""
    return lambda axis: _part(apart[axis], axis, 1)


def _part(values: NDArray[Any], axis: int, first: int) -> NDArray[Any]:
    """All along an axis but the last (`first` 0) or the first (1)."""
    n = values.shape[axis] - 1
    return values[(slice(None),) * axis + (slice(first, first + n),)]
