"""Fragments of a volume of any size: seeds of the whole volume, flooded window by window.

A window is a block with a halo around it. Where a basin comes in from beyond the window, what is
farthest from the outside on the window's face stands for its seed. What floods from there is joined
with the fragment that it meets in the next block.
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
from cellmap_pipeline.segmentation.agglomeration import Contacts, contacts, groups, pooled, together
from cellmap_pipeline.segmentation.block_components import Components, label_blocks, numbered
from cellmap_pipeline.segmentation.blocks import Block, Scratch
from cellmap_pipeline.segmentation.fragments import (
    Fragments,
    Landscape,
    above,
    between,
    components,
    distance_in,
    farthest,
    flooded,
    highest,
    landscape,
    maxima,
    mutexed,
    sizes_of,
    smoothed,
    smoothed_distance,
)
from cellmap_pipeline.segmentation.methods import Settings
from cellmap_pipeline.segmentation.probabilities import Probabilities

# Voxels of a window around its block.
HALO = 32
# Fragments of a block that have no seed of the whole volume are stored as this plus their number.
LOCAL = 1 << 31
# A face between two blocks is no ridge where the mean probability of a boundary on it is below.
NO_RIDGE = 0.5


@dataclass(frozen=True)
class Reader:
    """What a network predicted, by boxes, with all that a method makes of it voxel by voxel.

    Attributes
    ----------
    probabilities
        Of a label.
    settings
        Complete ones.
    folder
        For scratch volumes.
    """

    probabilities: Probabilities
    settings: Settings
    folder: Path

    @property
    def shape(self) -> Shape:
        """Of the volume."""
        return self.probabilities.grid.shape

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Of the volume, nm."""
        return self.probabilities.grid.voxel_size

    def scratch(self, name: str, dtype: str) -> Scratch:
        """A volume in the scratch folder."""
        return Scratch(self.folder / name, self.shape, dtype)

    def inside(self, box: Block) -> NDArray[np.bool_]:
        """Where the label is at least as likely as the threshold."""
        channels = self._smoothed(box, [self.probabilities.label])
        return above(channels[self.probabilities.label], self.settings["threshold"])

    def landscape(self, box: Block) -> Landscape:
        """The landscape in a box, as in the whole volume."""
        channels = self._smoothed(box, self.probabilities.channels)
        settings = self.settings | {"smooth_nm": 0.0}
        return landscape(self.probabilities.label, channels, self.voxel_size, settings)

    def distance(self, box: Block) -> NDArray[np.float32]:
        """Smoothed distances from the outside, nm, as in the whole volume."""
        sigma = min(self.voxel_size)
        wide = box.padded(_reach(sigma, self.voxel_size), self.shape)
        values = self.scratch("distance", "float32").read(wide.start, wide.stop)
        return smoothed_distance(values, self.voxel_size)[box.within(wide)]

    def _smoothed(self, box: Block, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        sigma = self.settings["smooth_nm"]
        wide = box.padded(_reach(sigma, self.voxel_size), self.shape) if sigma else box
        channels = self.probabilities.read(wide, names)
        within = box.within(wide)
        return {
            name: smoothed(values, self.voxel_size, sigma)[within]
            for name, values in channels.items()
        }


@dataclass(frozen=True)
class _Found:
    """Fragments in a block: ids (those without a seed of the whole volume below 0), voxels, the
    largest distance from the outside, and whether they have no seed at all.
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
    pieces
        Sizes, contacts and radii; its labels are in `volume`.
    volume, blocks, offsets
        Where `read` reads them.
    same
        int64, by fragment as it is read the one that it was joined with across blocks.
    """

    pieces: Fragments
    volume: Scratch
    blocks: Sequence[Block]
    offsets: NDArray[np.int64]
    same: NDArray[np.int64]

    def read(self, box: Block) -> NDArray[np.int64]:
        """Fragments of a box, as they were found in each block."""
        return numbered(self.volume, self.blocks, self.offsets, box.start, box.stop, above=LOCAL)


def block_fragments(
    reader: Reader, blocks: Sequence[Block], run: Workers, threads: int
) -> BlockFragments:
    """The pieces that the objects of a label are made of; see `fragments.fragments`.

    Distances are those of the whole volume, whose mask and distances this holds in memory, 5
    bytes a voxel.
    """
    seeds = None
    if reader.settings["method"] != "mutex_watershed":
        _measure(reader, blocks, run, threads)
        tops = partial(_tops, reader)
        volume = reader.scratch("seeds", "uint32")
        seeds = label_blocks(tops, blocks, volume, 26, run, "seeds")
    volume = reader.scratch("fragments", "uint32")
    found = list(run.run(partial(_flood, reader, seeds, volume), blocks, "fragments"))
    shared = 0 if seeds is None else seeds.sizes.size - 1
    local = np.cumsum([0, *(np.count_nonzero(part.ids < 0) for part in found)])
    offsets = shared + local - LOCAL
    size = shared + int(local[-1]) + 1
    sizes, radius = np.zeros(size, np.int64), np.zeros(size, np.float32)
    seedless = np.zeros(size, bool)
    for part, before in zip(found, local, strict=False):
        ids = np.where(part.ids < 0, shared + before - part.ids, part.ids)
        sizes[ids] += part.sizes
        radius[ids] = np.maximum(radius[ids], part.radius)
        seedless[ids] = part.seedless
    unjoined = BlockFragments(
        Fragments(np.zeros(0, np.uint32), sizes), volume, blocks, offsets, np.arange(size)
    )
    links = list(run.run(partial(_contacts, reader, unjoined), blocks, "contacts"))
    everywhere = together([inner for inner, _ in links], size)
    across = together([cut for _, cuts in links for cut in cuts], size)
    same = _joined_across(across, shared, seedless, reader.settings)
    largest = np.zeros(size, np.float32)
    np.maximum.at(largest, same, radius)
    pieces = Fragments(
        labels=np.zeros(0, np.uint32),
        sizes=np.bincount(same, sizes, size).astype(np.int64),
        links=pooled(everywhere, same),
        radius=largest if reader.settings["method"] == "watershed_distance" else None,
    )
    return BlockFragments(pieces, volume, blocks, offsets, same)


def _measure(reader: Reader, blocks: Sequence[Block], run: Workers, threads: int) -> None:
    """Write the distances from the outside of where seeds may lie."""
    whole = np.zeros(reader.shape, bool)
    masks = run.run(partial(_seeding, reader), blocks, "mask")
    everywhere = Block(0, (0, 0, 0), reader.shape)
    for block, mask in zip(blocks, masks, strict=True):
        whole[block.within(everywhere)] = mask
    distance = distance_in(whole, reader.voxel_size, threads)
    del whole
    most = np.float32(farthest(reader.shape, reader.voxel_size))
    scratch = reader.scratch("distance", "float32")
    for block in blocks:
        scratch.write(block.start, np.minimum(distance[block.within(everywhere)], most))


def _seeding(reader: Reader, block: Block) -> NDArray[np.bool_]:
    return reader.landscape(block).seeding


def _tops(reader: Reader, block: Block) -> NDArray[np.bool_]:
    """Where seeds are: local maxima of the distance."""
    wide = block.padded((1, 1, 1), reader.shape)
    return maxima(reader.distance(wide))[block.within(wide)] & reader.landscape(block).seeding


def _flood(reader: Reader, seeds: Components | None, volume: Scratch, block: Block) -> _Found:
    """Write the fragments of a block, and say which there are."""
    window = block.padded((HALO,) * 3, reader.shape)
    land = reader.landscape(window)
    core = block.within(window)
    empty = np.zeros(0, np.int64)
    if not land.inside[core].any():
        return _Found(empty, empty, np.zeros(0, np.float32), np.zeros(0, bool))
    if seeds is None:
        labels, of_volume, distance = mutexed(land), empty, None
        n_seeds = int(labels.max())
    else:
        distance = reader.distance(window)
        markers, names = _renumbered(seeds.read(window.start, window.stop))
        of_volume = names[1:]
        at_faces = components(maxima(distance) & land.seeding & (markers == 0), 26)
        more = np.where(at_faces > 0, at_faces.astype(np.int64) + of_volume.size, 0)
        n_seeds = of_volume.size + int(at_faces.max())
        labels = flooded(land, distance, markers + more)
        distance = distance[core]
    labels = np.ascontiguousarray(labels[core])
    # Seeds of the whole volume keep their ids; the others are numbered as they come.
    ids = np.flatnonzero(sizes_of(labels))
    ids = ids[ids > 0]
    names = np.where(ids <= of_volume.size, 0, LOCAL + np.cumsum(ids > of_volume.size))
    names[ids <= of_volume.size] = of_volume[ids[ids <= of_volume.size] - 1]
    lookup = np.zeros(int(labels.max()) + 1, np.uint32)
    lookup[ids] = names
    volume.write(block.start, lookup[labels])
    radius = np.zeros(lookup.size, np.float32) if distance is None else highest(distance, labels)
    return _Found(
        ids=np.where(names > LOCAL, LOCAL - names, names),
        sizes=sizes_of(labels)[ids],
        radius=radius[ids],
        seedless=ids > n_seeds,
    )


def _contacts(
    reader: Reader, unjoined: BlockFragments, block: Block
) -> tuple[Contacts, list[Contacts]]:
    """Contacts within a block and with the next ones; and by axis those with the next alone."""
    reach = block.padded((1, 1, 1), reader.shape)
    reach = Block(block.index, block.start, reach.stop)
    labels, ids = _renumbered(unjoined.read(reach))
    if reader.settings["method"] == "watershed_distance":
        faces = between(reader.distance(reach), lowest=True)
    else:
        given = reader.landscape(reach).faces
        assert given
        faces = given
    inner = _renamed(contacts(labels, faces, block.shape), ids)
    cuts = []
    for axis in range(3):
        n = block.shape[axis]
        if reach.shape[axis] > n:
            plane = (slice(None),) * axis + (slice(n - 1, n + 1),)
            core = shape_of((*block.shape[:axis], 1, *block.shape[axis + 1 :]))
            last = partial(_last_faces, faces, n)
            cuts.append(_renamed(contacts(labels[plane], last, core, [axis]), ids))
    return inner, cuts


def _renumbered(labels: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Labels as 1..n, and what they were before, background first."""
    labels, mapping = fastremap.renumber(labels)
    before = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    before[np.array(list(mapping.values()), np.int64)] = list(mapping.keys())
    return labels, before


def _last_faces(faces: Any, n: int, axis: int) -> NDArray[np.float32]:
    return faces(axis)[(slice(None),) * axis + (slice(n - 1, n),)]


def _renamed(links: Contacts, ids: NDArray[np.int64]) -> Contacts:
    return Contacts(ids[links.first], ids[links.second], links.area, links.mean, links.highest)


def _joined_across(
    links: Contacts, shared: int, seedless: NDArray[np.bool_], settings: Settings
) -> NDArray[np.int64]:
    """Lookup that joins fragments of one basin across blocks.

    One with a seed, but none of the whole volume (ids up to `shared`), joins the one it shares
    most faces with in a next block, unless there is a ridge between them. What then stays alone
    is flooded over a ridge in the whole, as is what has no seed.
    """
    if settings["method"] == "mutex_watershed":
        open_ = links.likely < 1 - settings["affinity_threshold"]
    elif settings["method"] == "watershed_distance":
        open_ = np.ones(links.mean.size, bool)
    else:
        open_ = links.mean < NO_RIDGE
    open_ &= ~(seedless[links.first] | seedless[links.second])
    size = seedless.size
    ends = np.concatenate([links.first[open_], links.second[open_]])
    partner = np.concatenate([links.second[open_], links.first[open_]])
    area = np.tile(links.area[open_], 2)
    order = np.lexsort((-partner, area, ends))
    best = np.full(size, -1, np.int64)
    best[ends[order]] = partner[order]  # of repeated ends the last, with the largest area, stays
    local = np.arange(size) > shared
    if settings["method"] != "mutex_watershed":
        seedless = seedless | (local & (best < 0))
    going_on = np.flatnonzero(local & (best >= 0))
    first, second = _seedless_joins(links, seedless)
    one, other = np.concatenate([going_on, first]), np.concatenate([best[going_on], second])
    return groups(size, one, other)


def _seedless_joins(
    links: Contacts, seedless: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs to join, so that no two with seeds come together: the largest contacts first.

    In the whole volume a fragment without a seed is all that hangs together without one, or is
    flooded over any ridge from what it touches.
    """
    root, seeded = np.arange(seedless.size), ~seedless

    def root_of(one: int) -> int:
        while root[one] != one:
            root[one] = one = root[root[one]]
        return one

    pairs = []
    touching = np.flatnonzero(seedless[links.first] | seedless[links.second])
    order = np.lexsort((links.second[touching], links.first[touching], -links.area[touching]))
    for link in touching[order]:
        first, second = root_of(links.first[link]), root_of(links.second[link])
        if first != second and not (seeded[first] and seeded[second]):
            root[second] = first
            seeded[first] |= seeded[second]
            pairs.append((first, second))
    first_of, second_of = np.array(pairs, np.int64).reshape(-1, 2).T
    return first_of, second_of


def _reach(sigma_nm: float, voxel_size: Sequence[float]) -> list[int]:
    """Voxels along each axis that a Gaussian takes in (`fragments.smoothed`)."""
    return [int(3 * sigma_nm / v + 0.5) for v in voxel_size]
