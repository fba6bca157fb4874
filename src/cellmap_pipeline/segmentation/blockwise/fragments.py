"""Fragments of a volume of any size: seeds of the whole volume, flooded window by window.

A window is a block with a halo around it. Seeds of the whole volume are *global*. If a basin
reaches into a window from outside, its voxel farthest from the outside of the object, on the face
of the window, serves as a *local* seed. The fragment that grows from it is joined with the fragment
that it meets in the next block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.geometry import Shape, shape_of
from cellmap_pipeline.run.pools import Workers
from cellmap_pipeline.segmentation.agglomeration import (
    Contacts,
    Faces,
    combine_contacts,
    find_contacts,
    relabel_contacts,
)
from cellmap_pipeline.segmentation.blocks import Block, ScratchVolume
from cellmap_pipeline.segmentation.blockwise.components import (
    Components,
    label_blocks,
    read_with_offsets,
)
from cellmap_pipeline.segmentation.blockwise.joining import join_across_blocks
from cellmap_pipeline.segmentation.fragments import (
    Fragments,
    connected_components,
    diagonal_nm,
    distance_to_outside,
    flood,
    local_maxima,
    max_by_label,
    mutex_watershed,
    sizes_by_label,
    smooth_distance,
)
from cellmap_pipeline.segmentation.landscapes import Landscape, smooth, values_on_faces
from cellmap_pipeline.segmentation.long_range import (
    LongRange,
    find_long_range_contacts,
    half_offset,
    long_range_offsets,
    longest,
    pool_long_range,
)
from cellmap_pipeline.segmentation.method_settings import find_method
from cellmap_pipeline.segmentation.methods import Method, Settings
from cellmap_pipeline.segmentation.probabilities import Probabilities

# Local fragments of a block are stored as this plus their number within the block.
LOCAL_ID_OFFSET = 1 << 31


@dataclass(frozen=True)
class LandscapeReader:
    """Reads boxes of a method's landscape, equal to those of the whole volume.

    Attributes
    ----------
    probabilities
        Probabilities of a label.
    settings
        Complete post-processing settings.
    folder
        Folder for scratch volumes.
    """

    probabilities: Probabilities
    settings: Settings
    folder: Path

    @property
    def method(self) -> Method:
        """The method of the settings."""
        return find_method(self.settings)

    @property
    def shape(self) -> Shape:
        """Shape of the volume."""
        return self.probabilities.grid.shape

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Voxel size of the volume, nm."""
        return self.probabilities.grid.voxel_size

    @property
    def reach(self) -> list[int]:
        """Voxels along each axis between a voxel and those that it is compared with; 1 at least."""
        return longest(self._offsets)

    @property
    def _channels(self) -> list[str]:
        return self.method.channels(self.probabilities.label, self.probabilities.channels)

    @property
    def _offsets(self) -> list[Shape]:
        label = self.probabilities.label
        return list(long_range_offsets(label, self._channels, self.voxel_size).values())

    def scratch(self, name: str, dtype: str) -> ScratchVolume:
        """Return a scratch volume of this name, with the shape of the whole volume."""
        return ScratchVolume(self.folder / name, self.shape, dtype)

    def inside(self, box: Block) -> NDArray[np.bool_]:
        """Read where objects are, bool (z, y, x)."""
        return self.landscape(box).inside

    def landscape(self, box: Block) -> Landscape:
        """Read the landscape in a box."""
        label = self.probabilities.label
        # Ridges of affinities lie halfway between the voxels of a pair, and on both neighbors.
        has_affinities = self.method.auxiliary == "affinities"
        reach = longest(map(half_offset, self._offsets)) if has_affinities else [0, 0, 0]
        window = box.padded(reach, self.shape)
        channels = self._read_smoothed(window, self._channels)
        settings = self.settings | {"smooth_nm": 0.0}
        landscape = self.method.landscape(label, channels, self.voxel_size, settings)
        return landscape.cropped(box.within(window))

    def distance(self, box: Block) -> NDArray[np.float32]:
        """Read smoothed distances to the outside, nm, from the scratch volume `distance`."""
        sigma = min(self.voxel_size)
        window = box.padded(_gaussian_radius(sigma, self.voxel_size), self.shape)
        values = self.scratch("distance", "float32").read(window.start, window.stop)
        return smooth_distance(values, self.voxel_size)[box.within(window)]

    def _read_smoothed(self, box: Block, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        sigma = self.settings["smooth_nm"]
        radius = _gaussian_radius(sigma, self.voxel_size)
        window = box.padded(radius, self.shape) if sigma else box
        channels = self.probabilities.read(window, names)
        within = box.within(window)
        return {
            name: smooth(values, self.voxel_size, sigma)[within]
            for name, values in channels.items()
        }


@dataclass(frozen=True)
class _FragmentsInBlock:
    """The fragments in a block.

    Attributes
    ----------
    ids
        int64 (n,), those of global seeds above 0; local ones -1, -2, …
    sizes
        int64 (n,), voxels.
    radius
        float32 (n,), largest distance to the outside, nm.
    seedless
        bool (n,), whether a fragment has no seed at all.
    """

    ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    radius: NDArray[np.float32]
    seedless: NDArray[np.bool_]


@dataclass(frozen=True)
class BlockFragments:
    """Fragments of the whole volume.

    Attributes
    ----------
    fragments
        Sizes, contacts and radii; the labels are in `volume` instead.
    volume, blocks, offsets
        Volume of the labels, its blocks, and what is added to the ids of local fragments by block.
    joined
        int64, for each id that `read` returns, the fragment that it was joined with across blocks.
    """

    fragments: Fragments
    volume: ScratchVolume
    blocks: Sequence[Block]
    offsets: NDArray[np.int64]
    joined: NDArray[np.int64]

    def read(self, box: Block) -> NDArray[np.int64]:
        """Read the fragments of a box, before they are joined across blocks."""
        return read_with_offsets(
            self.volume, self.blocks, self.offsets, box.start, box.stop, above=LOCAL_ID_OFFSET
        )


def find_block_fragments(
    reader: LandscapeReader, blocks: Sequence[Block], pool: Workers, threads: int
) -> BlockFragments:
    """Find the fragments that the objects of a label consist of; see `fragments.find_fragments`.

    Distances are those of the whole volume. To compute them, its mask and the distances are held in
    memory, 5 bytes a voxel.
    """
    seeds = None
    if reader.method.seeded:
        _write_distances(reader, blocks, pool, threads)
        make_seeds = partial(_seed_voxels, reader)
        volume = reader.scratch("seeds", "uint32")
        seeds = label_blocks(make_seeds, blocks, volume, 26, pool, "seeds")
    volume = reader.scratch("fragments", "uint32")
    by_block = list(pool.run(partial(_flood_block, reader, seeds, volume), blocks, "fragments"))
    n_global = 0 if seeds is None else seeds.sizes.size - 1
    n_local = np.cumsum([0, *(np.count_nonzero(found.ids < 0) for found in by_block)])
    offsets = n_global + n_local - LOCAL_ID_OFFSET
    size = n_global + int(n_local[-1]) + 1
    sizes, radius = np.zeros(size, np.int64), np.zeros(size, np.float32)
    seedless = np.zeros(size, bool)
    for found, n_before in zip(by_block, n_local, strict=False):
        ids = np.where(found.ids < 0, n_global + n_before - found.ids, found.ids)
        sizes[ids] += found.sizes
        radius[ids] = np.maximum(radius[ids], found.radius)
        seedless[ids] = found.seedless
    unjoined = BlockFragments(
        Fragments(np.zeros(0, np.uint32), sizes), volume, blocks, offsets, np.arange(size)
    )
    found_contacts = list(pool.run(partial(_block_contacts, reader, unjoined), blocks, "contacts"))
    everywhere = combine_contacts([found.inner for found in found_contacts], size)
    across = combine_contacts([cut for found in found_contacts for cut in found.cuts], size)
    long_range = combine_contacts([found.long_range for found in found_contacts], size)
    evidence = pool_long_range(across, long_range, size)
    joined = join_across_blocks(across, evidence, n_global, seedless, reader.settings)
    largest = np.zeros(size, np.float32)
    np.maximum.at(largest, joined, radius)
    fragments = Fragments(
        labels=np.zeros(0, np.uint32),
        sizes=np.bincount(joined, sizes, size).astype(np.int64),
        contacts=pool_long_range(
            relabel_contacts(everywhere, joined), relabel_contacts(long_range, joined), size
        ),
        radius=largest if reader.method.measures_necks else None,
    )
    return BlockFragments(fragments, volume, blocks, offsets, joined)


def _write_distances(
    reader: LandscapeReader, blocks: Sequence[Block], pool: Workers, threads: int
) -> None:
    """Write the distances to the outside of where seeds may lie."""
    mask = np.zeros(reader.shape, bool)
    block_masks = pool.run(partial(_seedable, reader), blocks, "mask")
    everywhere = Block(0, (0, 0, 0), reader.shape)
    for block, block_mask in zip(blocks, block_masks, strict=True):
        mask[block.within(everywhere)] = block_mask
    distance = distance_to_outside(mask, reader.voxel_size, threads)
    del mask
    longest = np.float32(diagonal_nm(reader.shape, reader.voxel_size))
    scratch = reader.scratch("distance", "float32")
    for block in blocks:
        scratch.write(block.start, np.minimum(distance[block.within(everywhere)], longest))


def _seedable(reader: LandscapeReader, block: Block) -> NDArray[np.bool_]:
    return reader.landscape(block).seedable


def _seed_voxels(reader: LandscapeReader, block: Block) -> NDArray[np.bool_]:
    """Find the voxels of seeds: local maxima of the distance."""
    window = block.padded((1, 1, 1), reader.shape)
    maxima = local_maxima(reader.distance(window))[block.within(window)]
    return maxima & reader.landscape(block).seedable


def _flood_block(
    reader: LandscapeReader, seeds: Components | None, volume: ScratchVolume, block: Block
) -> _FragmentsInBlock:
    """Write the fragments of a block, and return their ids and measurements."""
    window = block.padded((reader.method.halo_voxels,) * 3, reader.shape)
    landscape = reader.landscape(window)
    core = block.within(window)
    empty = np.zeros(0, np.int64)
    if not landscape.inside[core].any():
        return _FragmentsInBlock(empty, empty, np.zeros(0, np.float32), np.zeros(0, bool))
    if seeds is None:
        labels, global_ids, distance = mutex_watershed(landscape), empty, None
        n_seeds = int(labels.max())
    else:
        distance = reader.distance(window)
        markers, original = _renumber(seeds.read(window.start, window.stop))
        global_ids = original[1:]
        local_seeds = local_maxima(distance) & landscape.seedable & (markers == 0)
        local = connected_components(local_seeds, 26)
        local_markers = np.where(local > 0, local.astype(np.int64) + global_ids.size, 0)
        n_seeds = global_ids.size + int(local.max())
        labels = flood(landscape, distance, markers + local_markers)
        distance = distance[core]
    labels = np.ascontiguousarray(labels[core])
    # Fragments of global seeds keep the seed's id; local ones are numbered in order.
    ids = np.flatnonzero(sizes_by_label(labels))
    ids = ids[ids > 0]
    is_global = ids <= global_ids.size
    stored = np.where(is_global, 0, LOCAL_ID_OFFSET + np.cumsum(~is_global))
    stored[is_global] = global_ids[ids[is_global] - 1]
    lookup = np.zeros(int(labels.max()) + 1, np.uint32)
    lookup[ids] = stored
    volume.write(block.start, lookup[labels])
    no_radius = np.zeros(lookup.size, np.float32)
    radius = no_radius if distance is None else max_by_label(distance, labels)
    return _FragmentsInBlock(
        ids=np.where(stored > LOCAL_ID_OFFSET, LOCAL_ID_OFFSET - stored, stored),
        sizes=sizes_by_label(labels)[ids],
        radius=radius[ids],
        seedless=ids > n_seeds,
    )


@dataclass(frozen=True)
class _ContactsOfBlock:
    """Contacts that begin in a block.

    Attributes
    ----------
    inner
        Contacts within the block and with the next ones.
    cuts
        By axis, those with the next blocks.
    long_range
        Those of voxels at a distance.
    """

    inner: Contacts
    cuts: list[Contacts]
    long_range: Contacts


def _block_contacts(
    reader: LandscapeReader, unjoined: BlockFragments, block: Block
) -> _ContactsOfBlock:
    """Find the contacts that begin in a block."""
    read = block.padded(reader.reach, reader.shape)
    window = Block(block.index, block.start, block.padded((1, 1, 1), reader.shape).stop)
    labels, ids = _renumber(unjoined.read(read))
    near = labels[window.within(read)]
    if reader.method.measures_necks:
        faces = values_on_faces(reader.distance(window), lowest=True)
        long_range: Sequence[LongRange] = ()
    else:
        landscape = reader.landscape(read)
        boundaries = landscape.cropped(window.within(read)).faces
        assert boundaries
        faces, long_range = boundaries, landscape.long_range
    cuts = []
    for axis in range(3):
        n = block.shape[axis]
        if window.shape[axis] > n:
            planes = (slice(None),) * axis + (slice(n - 1, n + 1),)
            core = shape_of((*block.shape[:axis], 1, *block.shape[axis + 1 :]))
            last = partial(_last_faces, faces, n)
            cuts.append(_with_ids(find_contacts(near[planes], last, core, [axis]), ids))
    return _ContactsOfBlock(
        inner=_with_ids(find_contacts(near, faces, block.shape), ids),
        cuts=cuts,
        long_range=_with_ids(find_long_range_contacts(labels, long_range, block.within(read)), ids),
    )


def _renumber(labels: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Renumber labels to 1..n; also return the original label of each, background first."""
    labels, mapping = fastremap.renumber(labels)
    original = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    original[np.array(list(mapping.values()), np.int64)] = list(mapping.keys())
    return labels, original


def _last_faces(faces: Faces, n: int, axis: int) -> NDArray[np.float32]:
    return faces(axis)[(slice(None),) * axis + (slice(n - 1, n),)]


def _with_ids(contacts: Contacts, ids: NDArray[np.int64]) -> Contacts:
    return Contacts(
        ids[contacts.first], ids[contacts.second], contacts.area, contacts.mean, contacts.highest
    )


def _gaussian_radius(sigma_nm: float, voxel_size: Sequence[float]) -> list[int]:
    """Return the voxels on each side that a Gaussian includes (see `landscapes.smooth`)."""
    return [int(3 * sigma_nm / v + 0.5) for v in voxel_size]
