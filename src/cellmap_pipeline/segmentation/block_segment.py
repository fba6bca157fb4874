"""From predicted probabilities to labels of a volume of any size, block by block.

Connected components, semantic labels, sizes and holes are exactly those of the whole volume, and
ids the same; watersheds differ a little where basins reach far over a block (`block_fragments`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import further
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.io.volumes import create, reopen
from cellmap_pipeline.run.pools import Workers, workers
from cellmap_pipeline.run.scratch import scratch
from cellmap_pipeline.segmentation.agglomeration import pooled
from cellmap_pipeline.segmentation.block_components import Components, label_blocks
from cellmap_pipeline.segmentation.block_fragments import BlockFragments, Reader, block_fragments
from cellmap_pipeline.segmentation.blocks import Block, cut
from cellmap_pipeline.segmentation.methods import Settings, complete
from cellmap_pipeline.segmentation.probabilities import Probabilities
from cellmap_pipeline.segmentation.segment import join, join_small, voxels

# Voxels along each axis, multiples of `blocks.CHUNK`: so large that a window of the method takes
# below 2 GB.
BLOCK = 192
BLOCK_OF = {"mutex_watershed": 128}
# Processes at once, so that all of them take below 8 GB.
MOST_WORKERS = 3


def segment_blocks(
    probabilities: Probabilities,
    settings: Settings,
    output: Path,
    attributes: dict[str, Any],
    threads: int = 1,
    size: int | None = None,
) -> None:
    """Write the final label of a crop; in blocks, what `segmentation.segment` makes in memory.

    Parameters
    ----------
    probabilities
        Of the label, on its grid.
    settings
        Of the post-processing; what is left out is at its default.
    output
        Volume to make, on the same grid, with `attributes`.
    threads
        Processes that work side by side; changes no result.
    size
        Of a block, voxels along each axis; None: what suits the method.

    Raises
    ------
    InputError
        The settings are not valid, or need a channel that is not there.
    """
    label, grid = probabilities.label, probabilities.grid
    settings = complete(label, settings, further(label, probabilities.channels))
    blocks = cut(grid.shape, size or BLOCK_OF.get(settings["method"], BLOCK))
    at_once = min(threads, len(blocks), MOST_WORKERS)
    with scratch() as folder, workers(at_once) as run:
        reader = Reader(probabilities, settings, folder)
        made = (
            _instances(reader, blocks, run, threads)
            if is_instance(label)
            else _semantic(reader, blocks, run)
        )
        create(output, grid, made.dtype, attributes)
        for _ in run.run(partial(_write, made, output), blocks, "labels"):
            pass


@dataclass(frozen=True)
class _Labels:
    """Final labels, to be written block by block.

    Attributes
    ----------
    dtype
        Of the labels.
    objects, names
        Connected components, and what the voxels of each become.
    background, fills
        The same of what lies between them, where holes are filled.
    """

    dtype: str
    objects: Components
    names: NDArray[Any]
    background: Components | None = None
    fills: NDArray[Any] | None = None

    def read(self, block: Block) -> NDArray[Any]:
        labels = self.names[self.objects.read(block.start, block.stop)]
        if self.background is not None:
            assert self.fills is not None
            labels += self.fills[self.background.read(block.start, block.stop)]
        return labels.astype(self.dtype)


def _write(made: _Labels, output: Path, block: Block) -> None:
    box = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
    reopen(output)[box].write(made.read(block)).result()


def _instances(reader: Reader, blocks: Sequence[Block], run: Workers, threads: int) -> _Labels:
    settings = reader.settings
    smallest = voxels(settings["min_size_nm3"], reader.voxel_size)
    make: Callable[[Block], NDArray[Any]] = partial(Reader.inside, reader)
    if settings["method"] != "connected_components":
        found = block_fragments(reader, blocks, run, threads)
        lookup = join(found.pieces, settings)
        if settings.get("merge_small"):
            assert found.pieces.links is not None
            links = pooled(found.pieces.links, lookup)
            lookup = join_small(found.pieces, lookup, links, smallest)
        # Workers map it: as an argument it would be sent with every block.
        np.save(reader.folder / "lookup.npy", lookup[found.same])
        make = partial(_joined, found, reader.folder / "lookup.npy")
    # What lies apart is several objects for the scorer.
    objects = label_blocks(make, blocks, reader.scratch("objects", "uint32"), 26, run, "objects")
    kept = objects.sizes >= smallest
    kept[0] = False
    first, background, owner = objects.first.copy(), None, None
    if settings["fill_holes"]:
        background, owner = _holes(reader, objects, kept, blocks, run)
        np.minimum.at(first, owner, background.first)
    names = np.zeros(kept.size, np.int64)
    ids = np.flatnonzero(kept)
    names[ids[np.argsort(first[ids])]] = np.arange(1, ids.size + 1)
    fills = None if owner is None else names[owner]
    return _Labels(np.min_scalar_type(ids.size).name, objects, names, background, fills)


def _semantic(reader: Reader, blocks: Sequence[Block], run: Workers) -> _Labels:
    settings = reader.settings
    make = partial(Reader.inside, reader)
    if settings["fill_holes"]:
        objects = label_blocks(make, blocks, reader.scratch("parts", "uint32"), 26, run, "parts")
        background, owner = _holes(reader, objects, objects.sizes > 0, blocks, run, many=True)
        make = partial(_filled, objects, background, owner)
    objects = label_blocks(make, blocks, reader.scratch("objects", "uint32"), 26, run, "objects")
    kept = objects.sizes >= voxels(settings["min_size_nm3"], reader.voxel_size)
    kept[0] = False
    return _Labels("uint8", objects, kept.astype(np.uint8))


def _joined(found: BlockFragments, lookup: Path, block: Block) -> NDArray[np.uint32]:
    return np.load(lookup, mmap_mode="r")[found.read(block)].astype(np.uint32)


def _filled(
    objects: Components, background: Components, owner: NDArray[np.int64], block: Block
) -> NDArray[np.bool_]:
    labels = objects.read(block.start, block.stop)
    return (labels > 0) | (owner[background.read(block.start, block.stop)] > 0)


def _holes(
    reader: Reader,
    objects: Components,
    kept: NDArray[np.bool_],
    blocks: Sequence[Block],
    run: Workers,
    many: bool = False,
) -> tuple[Components, NDArray[np.int64]]:
    """The background's components by faces, and by component the object that it is a hole of.

    0 where it is none: it reaches the border of the volume or, unless `many` may enclose it, has
    faces to several objects.
    """
    volume = reader.scratch("background", "uint32")
    make = partial(_outside, objects, kept)
    background = label_blocks(make, blocks, volume, 6, run, "background")
    lowest = np.full(background.sizes.size, np.iinfo(np.int64).max)
    highest = np.zeros(background.sizes.size, np.int64)
    work = partial(_touched, objects, kept, background, reader.shape)
    for hole, owner in run.run(work, blocks, "holes"):
        np.minimum.at(lowest, hole, owner)
        np.maximum.at(highest, hole, owner)
    enclosed = (lowest > 0) & (highest > 0) & (many | (lowest == highest))
    enclosed[0] = False
    return background, np.where(enclosed, highest, 0)


def _outside(objects: Components, kept: NDArray[np.bool_], block: Block) -> NDArray[np.bool_]:
    return ~kept[objects.read(block.start, block.stop)]


def _touched(
    objects: Components,
    kept: NDArray[np.bool_],
    background: Components,
    shape: tuple[int, int, int],
    block: Block,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of a component of the background and an object with faces to it; 0 for the border."""
    reach = Block(block.index, block.start, block.padded((1, 1, 1), shape).stop)
    owner = objects.read(reach.start, reach.stop)
    owner *= kept[owner]
    hole = background.read(reach.start, reach.stop)
    pairs = []
    for axis in range(3):
        n = hole.shape[axis] - 1
        before, after = ((slice(None),) * axis + (slice(first, first + n),) for first in (0, 1))
        for one, other in ((before, after), (after, before)):
            touch = (hole[one] > 0) & (owner[other] > 0)
            pairs.append(np.stack([hole[one][touch], owner[other][touch]]))
        for end, at_border in ((0, block.start[axis] == 0), (n, reach.stop[axis] == shape[axis])):
            if at_border:
                ids = np.unique(hole.take(end, axis))
                pairs.append(np.stack([ids, np.zeros(ids.size, np.int64)]))
    found = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return found[0], found[1]
