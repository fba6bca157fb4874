"""From predicted probabilities to labels, in memory.

The instance methods work in two halves: `fragments` finds pieces of objects (slow; it looks at
every voxel), `assemble` joins and sifts them by their contacts (fast). Tuning keeps the pieces
while it varies how they are put together. Volumes too large for it: `block_segmentation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cc3d
import fastremap
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import further
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.segmentation.agglomeration import (
    Contacts,
    merge_by_mean,
    merge_small,
    merge_wide_necks,
    pooled,
)
from cellmap_pipeline.segmentation.fragments import (
    Channels,
    Fragments,
    Lengths,
    above,
    components,
    fragments,
    sizes_of,
    smoothed,
)
from cellmap_pipeline.segmentation.methods import Settings, complete


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
    label
        Its name; the challenge's instance classes become objects, all others 0/1.
    channels
        Probabilities, uint8 (z, y, x) with 0..255 = 0..1: that of `label`, and its further channels
        (`classes.FURTHER`) where they were predicted, as `targets` describes them.
    voxel_size
        nm, z, y, x.
    settings
        Of the post-processing; what is left out is at its default.
    threads
        For distance transforms; changes no result.

    Returns
    -------
    (z, y, x): semantic uint8 0/1; instances the smallest unsigned type that holds the ids 1..n in
    scan order, each connected by its 26-neighbourhood, as the official scorer counts objects.

    Raises
    ------
    InputError
        The settings are not valid, or need a channel that is not there.
    """
    settings = complete(label, settings, further(label, channels))
    if not is_instance(label):
        return _semantic(channels[label], voxel_size, settings)
    pieces = fragments(label, channels, voxel_size, settings, threads)
    return assemble(pieces, voxel_size, settings)


def voxels(size_nm3: float, voxel_size: Lengths) -> int:
    """Voxels that it takes to reach a volume."""
    return math.ceil(round(size_nm3 / math.prod(voxel_size), 6))


def join(pieces: Fragments, settings: Settings) -> NDArray[np.int64]:
    """For each piece the least of the pieces that belong to the same object as it."""
    if pieces.links is None:
        return np.arange(pieces.sizes.size)
    if pieces.radius is not None:
        return merge_wide_necks(pieces.links, pieces.radius, settings["neck"])
    return merge_by_mean(pieces.links, pieces.sizes.size, settings["merge_threshold"])


def join_small(
    pieces: Fragments, lookup: NDArray[np.int64], links: Contacts, smallest: int
) -> NDArray[np.int64]:
    """`lookup` when objects of less than `smallest` voxels have joined a neighbour.

    Parameters
    ----------
    links
        Contacts of the objects that `lookup` makes of the pieces.
    """
    sizes = np.bincount(lookup, pieces.sizes, lookup.size)
    return merge_small(links, sizes, smallest)[lookup]


def assemble(pieces: Fragments, voxel_size: Lengths, settings: Settings) -> NDArray[Any]:
    """The objects, from their pieces; see `segment` for what they are like."""
    smallest = voxels(settings["min_size_nm3"], voxel_size)
    labels, sizes = pieces.labels, pieces.sizes
    if pieces.links is not None:
        lookup = join(pieces, settings)
        if settings.get("merge_small"):
            lookup = join_small(pieces, lookup, pooled(pieces.links, lookup), smallest)
        # What lies apart is several objects for the scorer.
        labels = cc3d.connected_components(lookup.astype(labels.dtype)[labels], connectivity=26)
        sizes = sizes_of(labels)
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
    labels
        Integers (z, y, x); 0 is background. A hole is a part of it (by faces) that does not reach
        the border of the volume and has faces to one object only.

    Returns
    -------
    A filled copy.
    """
    background = components(labels == 0, 6)
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


def _neighbours(ndim: int, axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of all voxels that have a neighbour `step` along `axis`, and of those neighbours."""
    ends = slice(None, -1), slice(1, None)
    near, far = ends if step > 0 else ends[::-1]
    return (
        tuple(near if a == axis else slice(None) for a in range(ndim)),
        tuple(far if a == axis else slice(None) for a in range(ndim)),
    )
