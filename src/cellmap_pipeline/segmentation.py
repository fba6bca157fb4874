"""From predicted probabilities to labels, in memory.

The instance methods work in two halves: `fragments` finds pieces of objects (slow; it looks at
every voxel), `assemble` joins and sifts them by their contacts (fast). Tuning keeps the pieces
while it varies how they are put together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cc3d
import edt
import fastremap
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from cellmap_pipeline.agglomeration import (
    Contacts,
    contacts,
    merge_by_mean,
    merge_small,
    merge_wide_necks,
    pooled,
)
from cellmap_pipeline.classes import BOUNDARY_SUFFIX, is_instance
from cellmap_pipeline.postprocess import Settings, complete

Channels = Mapping[str, NDArray[np.uint8]]
Lengths = Sequence[float]


def segment(
    label: str,
    channels: Channels,
    voxel_size: Lengths,
    settings: Mapping[str, Any],
    threads: int = 1,
) -> NDArray[Any]:
    """The final label of a crop.

    Parameters
    ----------
    label : its name; the challenge's instance classes become objects, all others 0/1.
    channels : probabilities, uint8 (z, y, x) with 0..255 = 0..1: that of `label`, and where it
        was predicted `{label}_boundary`, the probability of the inner boundary of its objects
        (voxels with a face to another object or to the background).
    voxel_size : nm, z, y, x.
    settings : of the post-processing; what is left out is at its default.
    threads : for distance transforms; changes no result.

    Returns
    -------
    (z, y, x): semantic uint8 0/1; instances the smallest unsigned type that holds the ids 1..n in
    scan order, each connected by its 26-neighbourhood, as the official scorer counts objects.

    Raises
    ------
    InputError
        The settings are not valid, or need a channel that is not there.
    """
    settings = complete(label, settings, label + BOUNDARY_SUFFIX in channels)
    if not is_instance(label):
        return _semantic(channels[label], voxel_size, settings)
    pieces = fragments(label, channels, voxel_size, settings, threads)
    return assemble(pieces, voxel_size, settings)


def above(probability: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Where a probability of 0..255 is at least `threshold` of 1, whatever rounding does."""
    return probability >= round(255 * threshold, 6)


def smoothed(probability: NDArray[np.uint8], voxel_size: Lengths, sigma_nm: float) -> NDArray[Any]:
    """The probabilities (0..255) as they are, or by a Gaussian of `sigma_nm` as float32."""
    if sigma_nm == 0:
        return probability
    sigma = [sigma_nm / v for v in voxel_size]
    return ndimage.gaussian_filter(probability, sigma, output=np.float32, truncate=3)


def voxels(size_nm3: float, voxel_size: Lengths) -> int:
    """Voxels that it takes to reach a volume."""
    return math.ceil(round(size_nm3 / math.prod(voxel_size), 6))


@dataclass(frozen=True)
class Fragments:
    """Pieces of objects.

    Parameters
    ----------
    labels : int32 or uint32 (z, y, x), 1..n.
    sizes : int64 (n + 1,), voxels of each piece and, first, of the background.
    links : their contacts. `watershed_distance`: `highest` is the radius of the neck between two,
        nm. `watershed_boundary`: `mean` is the boundary probability on the shared faces.
    radius : float32 (n + 1,), largest distance of each piece from the outside, nm.
    """

    labels: NDArray[Any]
    sizes: NDArray[np.int64]
    links: Contacts | None = None
    radius: NDArray[np.float32] | None = None


def fragments(
    label: str, channels: Channels, voxel_size: Lengths, settings: Settings, threads: int = 1
) -> Fragments:
    """The pieces that the objects of an instance label are made of.

    Watersheds start at the maxima of a distance transform (for boundaries, of the distance to
    them, as in Beier et al. 2017, doi:10.1038/nmeth.4151). Depends on those of the (complete)
    `settings` that `postprocess.FRAGMENT_SETTINGS` names.
    """
    probability = smoothed(channels[label], voxel_size, settings["smooth_nm"])
    inside = above(probability, settings["threshold"])
    method = settings["method"]
    if method == "connected_components":
        labels = _components(inside, 26)
        return Fragments(labels, _sizes(labels))
    if method == "watershed_distance":
        distance = _distance(inside, voxel_size, threads)
        seeds = _maxima(distance, inside)
        labels = _flooded(-distance, seeds, inside)
        links = contacts(labels, distance, lowest=True)
        return Fragments(labels, _sizes(labels), links, _highest(distance, labels))
    boundary = channels[label + BOUNDARY_SUFFIX]
    height = smoothed(boundary, voxel_size, settings["smooth_nm"]).astype(np.float32)
    height /= 255
    np.maximum(height, _doubt(probability, settings["threshold"]), out=height)
    core = inside & (height < settings["seed_threshold"])
    seeds = _maxima(_distance(core, voxel_size, threads), core)
    labels = _flooded(height, seeds, inside)
    return Fragments(labels, _sizes(labels), contacts(labels, height))


def _doubt(probability: NDArray[Any], threshold: float) -> NDArray[np.float32]:
    """Where an object is unlikely, there may be a boundary: 1/2 at the threshold, 0 at twice that.

    So a network that is seldom sure of an object still leaves room for seeds.
    """
    certain = min(1.0, 2 * threshold)
    if certain == threshold:
        return np.zeros(probability.shape, np.float32)
    value = probability.astype(np.float32) / np.float32(255)
    return np.float32(0.5) * (np.float32(certain) - value) / np.float32(certain - threshold)


def join(pieces: Fragments, settings: Settings) -> NDArray[np.int64]:
    """For each piece the least of the pieces that belong to the same object as it."""
    if pieces.links is None:
        return np.arange(pieces.sizes.size)
    if pieces.radius is not None:
        return merge_wide_necks(pieces.links, pieces.radius, settings["neck"])
    return merge_by_mean(pieces.links, pieces.sizes.size, settings["merge_threshold"])


def join_small(pieces: Fragments, lookup: NDArray[np.int64], smallest: int) -> NDArray[np.int64]:
    """`lookup` when objects of less than `smallest` voxels have joined a neighbour."""
    assert pieces.links is not None
    sizes = np.bincount(lookup, pieces.sizes, lookup.size)
    return merge_small(pooled(pieces.links, lookup), sizes, smallest)[lookup]


def assemble(pieces: Fragments, voxel_size: Lengths, settings: Settings) -> NDArray[Any]:
    """The objects, from their pieces; see `segment` for what they are like."""
    smallest = voxels(settings["min_size_nm3"], voxel_size)
    labels, sizes = pieces.labels, pieces.sizes
    if pieces.links is not None:
        lookup = join(pieces, settings)
        if settings.get("merge_small"):
            lookup = join_small(pieces, lookup, smallest)
        # What lies apart is several objects for the scorer.
        labels = cc3d.connected_components(lookup.astype(labels.dtype)[labels], connectivity=26)
        sizes = _sizes(labels)
    if smallest > 1:
        kept = np.where(sizes >= smallest, np.arange(sizes.size, dtype=labels.dtype), 0)
        labels = kept[labels]
    if settings["fill_holes"]:
        labels = fill_holes(labels)
    labels, _ = fastremap.renumber(np.ascontiguousarray(labels))
    return fastremap.refit(labels)


def fill_holes(labels: NDArray[Any]) -> NDArray[Any]:
    """Give the background that one object encloses to that object.

    Parameters
    ----------
    labels : integers (z, y, x); 0 is background. A hole is a part of it (by faces) that does not
        reach the border of the volume and has faces to one object only.

    Returns
    -------
    A filled copy.
    """
    background = _components(labels == 0, 6)
    lowest = np.full(int(background.max(initial=0)) + 1, np.iinfo(np.int64).max)
    highest = np.zeros(lowest.size, np.int64)
    for axis in range(labels.ndim):
        for step in (1, -1):
            near, far = _neighbours(labels.ndim, axis, step)
            touch = (background[near] != 0) & (labels[far] != 0)
            hole, owner = background[near][touch], labels[far][touch].astype(np.int64)
            np.minimum.at(lowest, hole, owner)
            np.maximum.at(highest, hole, owner)
        for end in (0, -1):
            lowest[fastremap.unique(np.take(background, end, axis))] = 0
    owner = np.where(lowest == highest, highest, 0)
    owner[0] = 0
    return labels + owner.astype(labels.dtype)[background]


def _semantic(
    probability: NDArray[np.uint8], voxel_size: Lengths, settings: Settings
) -> NDArray[np.uint8]:
    probability = smoothed(probability, voxel_size, settings["smooth_nm"])
    inside = above(probability, settings["threshold"]).astype(np.uint8)
    if settings["fill_holes"]:
        inside = fill_holes(inside)
    smallest = voxels(settings["min_size_nm3"], voxel_size)
    if smallest > 1:
        inside = cc3d.dust(inside, threshold=smallest, connectivity=26)
    return inside


def _distance(inside: NDArray[np.bool_], voxel_size: Lengths, threads: int) -> NDArray[np.float32]:
    """Distance (nm) from the outside, smoothed by a voxel so that steps make no false maxima."""
    distance = edt.edt(np.ascontiguousarray(inside), anisotropy=tuple(voxel_size), parallel=threads)
    # Where nothing is outside the distance is infinite.
    farthest = math.hypot(*(v * n for v, n in zip(voxel_size, inside.shape, strict=True)))
    np.minimum(distance, np.float32(farthest), out=distance)
    sigma = [min(voxel_size) / v for v in voxel_size]
    return ndimage.gaussian_filter(distance, sigma, truncate=3)


def _maxima(distance: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[Any]:
    """Local maxima of `distance`, numbered."""
    tops = (ndimage.maximum_filter(distance, 3) == distance) & inside
    return _components(tops, 26)


def _flooded(
    height: NDArray[np.float32], seeds: NDArray[Any], inside: NDArray[np.bool_]
) -> NDArray[Any]:
    """Basins of the seeds; parts of `inside` without a seed are basins of their own."""
    labels = watershed(height, seeds.astype(np.int32), mask=inside)
    left = _components(inside & (labels == 0), 6)
    return np.where(left != 0, left.astype(np.int32) + labels.max(), labels)


def _components(inside: NDArray[np.bool_], connectivity: Literal[6, 26]) -> NDArray[Any]:
    # As uint8: for bool, cc3d (4.1.1) counts too few provisional labels in thin volumes and fails.
    return cc3d.connected_components(inside.view(np.uint8), connectivity=connectivity)


def _sizes(labels: NDArray[Any]) -> NDArray[np.int64]:
    return np.bincount(labels.ravel(), minlength=1)


def _highest(values: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float32]:
    """Largest value within each label."""
    highest = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(highest, labels.ravel(), values.ravel())
    return highest


def _neighbours(ndim: int, axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of all voxels that have a neighbour `step` along `axis`, and of those neighbours."""
    ends = slice(None, -1), slice(1, None)
    near, far = ends if step > 0 else ends[::-1]
    return (
        tuple(near if a == axis else slice(None) for a in range(ndim)),
        tuple(far if a == axis else slice(None) for a in range(ndim)),
    )
