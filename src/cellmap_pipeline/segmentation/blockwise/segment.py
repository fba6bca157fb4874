"""From predicted probabilities to labels of a volume of any size, block by block.

Connected components, semantic labels, sizes and holes are exactly those of the whole volume, with
the same ids; watersheds differ slightly where basins reach far beyond a block
(`blockwise.fragments`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.io.volumes import create, reopen
from cellmap_pipeline.run.pools import Workers, workers
from cellmap_pipeline.run.scratch import scratch
from cellmap_pipeline.segmentation.blocks import Block, split_into_blocks
from cellmap_pipeline.segmentation.blockwise.components import Components, label_blocks
from cellmap_pipeline.segmentation.blockwise.fragments import (
    BlockFragments,
    LandscapeReader,
    find_block_fragments,
)
from cellmap_pipeline.segmentation.method_settings import find_method
from cellmap_pipeline.segmentation.methods import Settings
from cellmap_pipeline.segmentation.probabilities import Probabilities
from cellmap_pipeline.segmentation.segment import (
    merge_fragments,
    size_in_voxels,
    small_object_dendrogram,
)


def segment_blocks(
    probabilities: Probabilities,
    settings: Settings,
    output: Path,
    attributes: dict[str, Any],
    threads: int = 1,
    size: int | None = None,
) -> bool:
    """Write the final label of a crop, block by block; see `segment.segment` for the result.

    Parameters
    ----------
    probabilities
        Probabilities of the label, on its grid.
    settings
        Complete post-processing settings.
    output
        Volume to create, on the same grid.
    attributes
        Attributes of that volume.
    threads
        Maximum number of processes, each of which takes up to 2 GB; it does not change the result.
    size
        Edge of a block, voxels; None means the method's own.

    Returns
    -------
    Whether any voxel is labeled.
    """
    label, grid = probabilities.label, probabilities.grid
    blocks = split_into_blocks(grid.shape, size or find_method(settings).block_voxels)
    n_processes = min(threads, len(blocks))
    with scratch() as folder, workers(n_processes) as pool:
        reader = LandscapeReader(probabilities, settings, folder)
        labels = (
            _instances(reader, blocks, pool, threads)
            if is_instance(label)
            else _semantic(reader, blocks, pool)
        )
        create(output, grid, labels.dtype, attributes)
        for _ in pool.run(partial(_write_block, labels, output), blocks, "labels"):
            pass
        return bool(labels.object_labels.any())


@dataclass(frozen=True)
class _Labels:
    """Final labels, to be written block by block.

    Attributes
    ----------
    dtype
        Data type of the labels.
    objects
        Connected components of the foreground.
    object_labels
        Final label of each component.
    background
        Components of the background, if holes are filled.
    hole_labels
        Final label of each of them; 0 unless it is a hole.
    """

    dtype: str
    objects: Components
    object_labels: NDArray[Any]
    background: Components | None = None
    hole_labels: NDArray[Any] | None = None

    def read(self, block: Block) -> NDArray[Any]:
        labels = self.object_labels[self.objects.read(block.start, block.stop)]
        if self.background is not None:
            assert self.hole_labels is not None
            labels += self.hole_labels[self.background.read(block.start, block.stop)]
        return labels.astype(self.dtype)


def _write_block(labels: _Labels, output: Path, block: Block) -> None:
    box = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
    reopen(output)[box].write(labels.read(block)).result()


def _instances(
    reader: LandscapeReader, blocks: Sequence[Block], pool: Workers, threads: int
) -> _Labels:
    settings = reader.settings
    min_voxels = size_in_voxels(settings["min_size_nm3"], reader.voxel_size)
    make: Callable[[Block], NDArray[Any]] = partial(LandscapeReader.inside, reader)
    if reader.method.splits:
        found = find_block_fragments(reader, blocks, pool, threads)
        lookup = merge_fragments(found.fragments, settings)
        if settings.get("merge_small"):
            lookup = small_object_dendrogram(found.fragments, lookup).cut(min_voxels)[lookup]
        # Memory-mapped by the workers: an argument would be sent with every block.
        np.save(reader.folder / "lookup.npy", lookup[found.joined])
        make = partial(_merged_fragments, found, reader.folder / "lookup.npy")
    # The scorer counts unconnected parts as several objects.
    objects = label_blocks(make, blocks, reader.scratch("objects", "uint32"), 26, pool, "objects")
    kept = objects.sizes >= min_voxels
    kept[0] = False
    first, background, owner = objects.first.copy(), None, None
    if settings["fill_holes"]:
        background, owner = _find_holes(reader, objects, kept, blocks, pool)
        np.minimum.at(first, owner, background.first)
    object_labels = np.zeros(kept.size, np.int64)
    ids = np.flatnonzero(kept)
    object_labels[ids[np.argsort(first[ids])]] = np.arange(1, ids.size + 1)
    hole_labels = None if owner is None else object_labels[owner]
    dtype = np.min_scalar_type(ids.size).name
    return _Labels(dtype, objects, object_labels, background, hole_labels)


def _semantic(reader: LandscapeReader, blocks: Sequence[Block], pool: Workers) -> _Labels:
    settings = reader.settings
    make = partial(LandscapeReader.inside, reader)
    if settings["fill_holes"]:
        volume = reader.scratch("parts", "uint32")
        objects = label_blocks(make, blocks, volume, 26, pool, "parts")
        is_object = objects.sizes > 0
        background, owner = _find_holes(
            reader, objects, is_object, blocks, pool, of_several_objects=True
        )
        make = partial(_filled, objects, background, owner)
    objects = label_blocks(make, blocks, reader.scratch("objects", "uint32"), 26, pool, "objects")
    kept = objects.sizes >= size_in_voxels(settings["min_size_nm3"], reader.voxel_size)
    kept[0] = False
    return _Labels("uint8", objects, kept.astype(np.uint8))


def _merged_fragments(found: BlockFragments, lookup: Path, block: Block) -> NDArray[np.uint32]:
    return np.load(lookup, mmap_mode="r")[found.read(block)].astype(np.uint32)


def _filled(
    objects: Components, background: Components, owner: NDArray[np.int64], block: Block
) -> NDArray[np.bool_]:
    labels = objects.read(block.start, block.stop)
    return (labels > 0) | (owner[background.read(block.start, block.stop)] > 0)


def _find_holes(
    reader: LandscapeReader,
    objects: Components,
    kept: NDArray[np.bool_],
    blocks: Sequence[Block],
    pool: Workers,
    of_several_objects: bool = False,
) -> tuple[Components, NDArray[np.int64]]:
    """Find the components of the background (connected by faces) that are holes.

    Parameters
    ----------
    reader
        Reader of the volume.
    objects
        Connected components of the foreground.
    kept
        Whether a component is kept; the others count as background.
    blocks
        All blocks of the volume.
    pool
        Processes that work on the blocks.
    of_several_objects
        Whether a hole may have faces to several objects.

    Returns
    -------
    background
        Components of the background.
    owner
        Object whose hole each component is. 0 if it is none: it reaches the border of the volume,
        or has faces to several objects although `of_several_objects` is False.
    """
    volume = reader.scratch("background", "uint32")
    make = partial(_background_mask, objects, kept)
    background = label_blocks(make, blocks, volume, 6, pool, "background")
    lowest = np.full(background.sizes.size, np.iinfo(np.int64).max)
    highest = np.zeros(background.sizes.size, np.int64)
    work = partial(_holes_and_owners, objects, kept, background, reader.shape)
    for hole, owner in pool.run(work, blocks, "holes"):
        np.minimum.at(lowest, hole, owner)
        np.maximum.at(highest, hole, owner)
    enclosed = (lowest > 0) & (highest > 0) & (of_several_objects | (lowest == highest))
    enclosed[0] = False
    return background, np.where(enclosed, highest, 0)


def _background_mask(
    objects: Components, kept: NDArray[np.bool_], block: Block
) -> NDArray[np.bool_]:
    return ~kept[objects.read(block.start, block.stop)]


def _holes_and_owners(
    objects: Components,
    kept: NDArray[np.bool_],
    background: Components,
    shape: tuple[int, int, int],
    block: Block,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of a component of the background and an object that share a face.

    The object is 0 for components at the border of the volume.
    """
    window = Block(block.index, block.start, block.padded((1, 1, 1), shape).stop)
    owner = objects.read(window.start, window.stop)
    owner *= kept[owner]
    hole = background.read(window.start, window.stop)
    pairs = []
    for axis in range(3):
        n = hole.shape[axis] - 1
        before, after = ((slice(None),) * axis + (slice(first, first + n),) for first in (0, 1))
        for one, other in ((before, after), (after, before)):
            touch = (hole[one] > 0) & (owner[other] > 0)
            pairs.append(np.stack([hole[one][touch], owner[other][touch]]))
        for end, at_border in ((0, block.start[axis] == 0), (n, window.stop[axis] == shape[axis])):
            if at_border:
                ids = np.unique(hole.take(end, axis))
                pairs.append(np.stack([ids, np.zeros(ids.size, np.int64)]))
    found = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return found[0], found[1]
