"""From predicted probabilities to labels, in memory.

The instance methods work in two halves: `find_fragments` finds fragments of objects (slow; it
processes every voxel), `assemble` merges and filters them by their contacts (fast). Tuning keeps
the fragments while it varies how they are assembled. `blockwise` does the same for volumes that
are too large for memory.
"""

from __future__ import annotations

import math
from typing import Any

import cc3d
import fastremap
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.segmentation.agglomeration import (
    Dendrogram,
    merge_wide_necks,
    relabel_contacts,
    size_dendrogram,
)
from cellmap_pipeline.segmentation.fragments import (
    Fragments,
    connected_components,
    find_fragments,
    sizes_by_label,
)
from cellmap_pipeline.segmentation.landscapes import Channels, Lengths
from cellmap_pipeline.segmentation.method_settings import find_method
from cellmap_pipeline.segmentation.methods import Settings


def segment(
    label: str,
    channels: Channels,
    voxel_size: Lengths,
    settings: Settings,
    threads: int = 1,
) -> NDArray[Any]:
    """Make the final label of a crop.

    Parameters
    ----------
    label
        Name of the label; the challenge's instance classes become objects, all others 0/1.
    channels
        Probabilities, uint8 (z, y, x) with 0..255 = 0..1: that of `label`, and its auxiliary
        channels (`channels.AUXILIARY_SUFFIXES`) if they were predicted, as described in
        `patches.targets`.
    voxel_size
        nm, z, y, x.
    settings
        Complete post-processing settings (`method_settings.complete`).
    threads
        Threads for distance transforms; their number does not change the result.

    Returns
    -------
    (z, y, x): semantic uint8 0/1; instances the smallest unsigned type that holds the ids 1..n in
    scan order, each connected by its 26-neighborhood, as the official scorer counts objects.
    """
    if not is_instance(label):
        return _semantic(label, channels, voxel_size, settings)
    fragments = find_fragments(label, channels, voxel_size, settings, threads)
    return assemble(fragments, voxel_size, settings)


def size_in_voxels(size_nm3: float, voxel_size: Lengths) -> int:
    """Return the number of voxels that reach a volume."""
    return math.ceil(round(size_nm3 / math.prod(voxel_size), 6))


def merge_fragments(fragments: Fragments, settings: Settings) -> NDArray[np.int64]:
    """Return a lookup from each fragment to the least fragment of the same object."""
    if fragments.contacts is None:
        return np.arange(fragments.sizes.size)
    if fragments.radius is not None:
        return merge_wide_necks(fragments.contacts, fragments.radius, settings["neck"])
    return fragments.dendrogram.cut(settings["merge_threshold"])


def small_object_dendrogram(fragments: Fragments, lookup: NDArray[np.int64]) -> Dendrogram:
    """Return how objects merge with a neighbor, the smallest one first.

    Parameters
    ----------
    fragments
        Fragments of the objects, with contacts.
    lookup
        Object of each fragment.

    Returns
    -------
    Its cut at a number of voxels merges all objects of fewer voxels.
    """
    assert fragments.contacts is not None
    sizes = np.bincount(lookup, fragments.sizes, lookup.size)
    return size_dendrogram(relabel_contacts(fragments.contacts, lookup), sizes)


def assemble(fragments: Fragments, voxel_size: Lengths, settings: Settings) -> NDArray[Any]:
    """Assemble objects from their fragments; the result is described at `segment`."""
    min_voxels = size_in_voxels(settings["min_size_nm3"], voxel_size)
    labels, sizes = fragments.labels, fragments.sizes
    if fragments.contacts is not None:
        lookup = merge_fragments(fragments, settings)
        if settings.get("merge_small"):
            lookup = small_object_dendrogram(fragments, lookup).cut(min_voxels)[lookup]
        # The scorer counts unconnected parts as several objects.
        labels = cc3d.connected_components(lookup.astype(labels.dtype)[labels], connectivity=26)
        sizes = sizes_by_label(labels)
    if min_voxels > 1:
        kept = np.where(sizes >= min_voxels, np.arange(sizes.size, dtype=labels.dtype), 0)
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
        Integers (z, y, x); 0 is background. A hole is a component of the background (connected by
        faces) that does not reach the border of the volume and has faces to one object only.

    Returns
    -------
    A filled copy.
    """
    background = connected_components(labels == 0, 6)
    lowest = np.full(int(background.max(initial=0)) + 1, np.iinfo(np.int64).max)
    highest = np.zeros(lowest.size, np.int64)
    for axis in range(labels.ndim):
        for step in (1, -1):
            near, far = _neighbor_slices(labels.ndim, axis, step)
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
    label: str, channels: Channels, voxel_size: Lengths, settings: Settings
) -> NDArray[np.uint8]:
    landscape = find_method(settings).landscape(label, channels, voxel_size, settings)
    inside = landscape.inside.astype(np.uint8)
    if settings["fill_holes"]:
        inside = fill_holes(inside)
    min_voxels = size_in_voxels(settings["min_size_nm3"], voxel_size)
    if min_voxels > 1:
        inside = cc3d.dust(inside, threshold=min_voxels, connectivity=26)
    return inside


def _neighbor_slices(
    ndim: int, axis: int, step: int
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return slices of all voxels with a neighbor `step` along `axis`, and of those neighbors."""
    ends = slice(None, -1), slice(1, None)
    near, far = ends if step > 0 else ends[::-1]
    return (
        tuple(near if a == axis else slice(None) for a in range(ndim)),
        tuple(far if a == axis else slice(None) for a in range(ndim)),
    )
