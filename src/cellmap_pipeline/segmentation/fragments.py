"""Fragments of objects, found by watersheds of a network's predictions.

This is the slow half of the instance methods. Each method has a landscape (`landscapes.Landscape`),
which serves a whole volume in memory and windows of a large one alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import cc3d
import edt
import mwatershed
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from cellmap_pipeline.segmentation.agglomeration import (
    Contacts,
    Dendrogram,
    find_contacts,
    mean_dendrogram,
)
from cellmap_pipeline.segmentation.landscapes import Channels, Landscape, Lengths, values_on_faces
from cellmap_pipeline.segmentation.long_range import find_long_range_contacts, pool_long_range
from cellmap_pipeline.segmentation.method_settings import find_method
from cellmap_pipeline.segmentation.methods import Settings

# Of the pairs of voxels at a distance, only those whose first voxel lies on a grid of this step
# repel each other, since each takes as much time and memory as a face. Wolf et al. do the same.
LONG_RANGE_STRIDE_VOXELS = 2


@dataclass(frozen=True)
class Fragments:
    """Fragments of objects.

    Attributes
    ----------
    labels
        int32 or uint32 (z, y, x), 1..n.
    sizes
        int64 (n + 1,), voxels of the background and of each fragment.
    contacts
        Contacts between the fragments; None if the method does not split objects. For
        `watershed_distance`, `highest` is the radius of the neck between two fragments, nm; for all
        others, `mean` is the boundary probability on the shared faces.
    radius
        float32 (n + 1,), largest distance of each fragment from the outside, nm; only for
        `watershed_distance`.
    """

    labels: NDArray[Any]
    sizes: NDArray[np.int64]
    contacts: Contacts | None = None
    radius: NDArray[np.float32] | None = None

    @cached_property
    def dendrogram(self) -> Dendrogram:
        """The order in which fragments merge by the boundary probability of their contacts."""
        assert self.contacts is not None
        return mean_dendrogram(self.contacts, self.sizes.size)


def find_fragments(
    label: str, channels: Channels, voxel_size: Lengths, settings: Settings, threads: int = 1
) -> Fragments:
    """Find the fragments that the objects of an instance label consist of.

    Watersheds start at the maxima of a distance transform (with a predicted boundary, of the
    distance to it, as in Beier et al. 2017, doi:10.1038/nmeth.4151). The mutex watershed is that of
    Wolf et al. 2018 (doi:10.1007/978-3-030-01225-0_34). Of the complete `settings`, only those in
    `method_settings.fragment_settings` matter.
    """
    method = find_method(settings)
    landscape = method.landscape(label, channels, voxel_size, settings)
    if not method.splits:
        labels = connected_components(landscape.inside, 26)
        return Fragments(labels, sizes_by_label(labels))
    if landscape.affinities is not None:
        labels = mutex_watershed(landscape)
        return Fragments(labels, sizes_by_label(labels), _contacts(labels, landscape))
    distance = distance_to_outside(landscape.seedable, voxel_size, threads)
    longest = np.float32(diagonal_nm(landscape.inside.shape, voxel_size))
    np.minimum(distance, longest, out=distance)
    distance = smooth_distance(distance, voxel_size)
    seeds = connected_components(local_maxima(distance) & landscape.seedable, 26)
    labels = flood(landscape, distance, seeds)
    if landscape.faces is not None:
        return Fragments(labels, sizes_by_label(labels), _contacts(labels, landscape))
    contacts = find_contacts(labels, values_on_faces(distance, lowest=True))
    return Fragments(labels, sizes_by_label(labels), contacts, max_by_label(distance, labels))


def _contacts(labels: NDArray[Any], landscape: Landscape) -> Contacts:
    """Find the contacts between fragments, with the probability of a boundary between them."""
    assert landscape.faces
    contacts = find_contacts(labels, landscape.faces)
    if not landscape.long_range:
        return contacts
    long_range = find_long_range_contacts(labels, landscape.long_range)
    return pool_long_range(contacts, long_range, int(labels.max(initial=0)) + 1)


def flood(
    landscape: Landscape, distance: NDArray[np.float32], seeds: NDArray[Any]
) -> NDArray[np.int32]:
    """Grow the basins of the seeds; regions inside without a seed become basins of their own."""
    height = -distance if landscape.height is None else landscape.height
    labels = watershed(height, seeds.astype(np.int32), mask=landscape.inside)
    left = connected_components(landscape.inside & (labels == 0), 6)
    return np.where(left != 0, left.astype(np.int32) + labels.max(), labels)


def mutex_watershed(landscape: Landscape) -> NDArray[Any]:
    """Partition the inside by its signed affinities into fragments 1..n."""
    assert landscape.affinities is not None
    shape = landscape.inside.shape
    offsets = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    offsets += [[-o for o in pairs.offset] for pairs in landscape.long_range]
    strides = [[1] * 3] * 3 + [[LONG_RANGE_STRIDE_VOXELS] * 3] * len(landscape.long_range)
    # The library fails at offsets that are longer than the volume, which have no pairs.
    fits = [
        i for i, offset in enumerate(offsets)
        if all(abs(o) < max(n, 2) for o, n in zip(offset, shape, strict=True))
    ]  # fmt: skip
    affinities = landscape.affinities
    labels = mwatershed.agglom(
        affinities if len(fits) == len(offsets) else affinities[fits],
        [offsets[i] for i in fits],
        strides=[strides[i] for i in fits],
    )
    labels[~landscape.inside] = 0
    # Voxels that attract no neighbor are returned without a label.
    alone = np.flatnonzero((labels == 0) & landscape.inside)
    labels.ravel()[alone] = labels.max() + np.arange(1, alone.size + 1, dtype=labels.dtype)
    # Renumber in scan order: the library's own order is arbitrary.
    return cc3d.connected_components(labels, connectivity=26, out_dtype=np.uint32)


def distance_to_outside(
    inside: NDArray[np.bool_], voxel_size: Lengths, threads: int
) -> NDArray[np.float32]:
    """Compute the distance (nm) to the outside; infinite if nothing is outside."""
    return edt.edt(np.ascontiguousarray(inside), anisotropy=tuple(voxel_size), parallel=threads)


def diagonal_nm(shape: Sequence[int], voxel_size: Lengths) -> float:
    """Return the diagonal (nm) of a volume, a finite substitute for infinite distances."""
    return math.hypot(*(v * n for v, n in zip(voxel_size, shape, strict=True)))


def smooth_distance(distance: NDArray[np.float32], voxel_size: Lengths) -> NDArray[np.float32]:
    """Smooth distances by a voxel, so that steps do not cause false maxima."""
    sigma = [min(voxel_size) / v for v in voxel_size]
    return ndimage.gaussian_filter(distance, sigma, truncate=3)


def local_maxima(distance: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find the voxels that no neighbor exceeds."""
    return ndimage.maximum_filter(distance, 3) == distance


def connected_components(inside: NDArray[np.bool_], connectivity: Literal[6, 26]) -> NDArray[Any]:
    """Label the connected components 1..n in scan order."""
    # As uint8: for bool, cc3d (4.1.1) counts too few provisional labels in thin volumes and fails.
    return cc3d.connected_components(inside.view(np.uint8), connectivity=connectivity)


def sizes_by_label(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Count the voxels of each label, background first."""
    return np.bincount(labels.ravel(), minlength=1)


def max_by_label(values: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the largest value within each label, background first."""
    top = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(top, labels.ravel(), values.ravel())
    return top
