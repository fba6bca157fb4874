"""Which patches are trained on, and which validate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.patches.augmentation import Change, draw_change, shape_to_read
from cellmap_pipeline.patches.patch import Patch, Source, read_patch, unknown

# Share of patches that are centred on a voxel of a class, so that rare classes come up; the
# others lie anywhere in a crop.
ON_A_CLASS = 0.7


class RandomPatches:
    """Patches by number: the same number gives the same patch, in any thread.

    Numbers go on from epoch to epoch (`EpochSampler`), so that every epoch sees other patches.
    """

    def __init__(self, sources: Sequence[Source], training: Training) -> None:
        self.sources = list(sources)
        self.training = training

    def read(self, number: int) -> Patch:
        """Patch `number`."""
        training = self.training
        rng = np.random.default_rng([training.seed, number])
        change = draw_change(training.augment, rng, training.patch_size, training.voxel_size)
        shape = shape_to_read(change, training.patch_size, training.voxel_size)
        source, start = self._place(rng, shape)
        return read_patch(source, start, shape, change)

    @cached_property
    def _holders(self) -> list[tuple[str, list[Source]]]:
        """Classes that some crop holds, with those crops."""
        holders = [
            (label, [source for source in self.sources if label in source.crop.present])
            for label in self.training.classes
        ]
        return [(label, sources) for label, sources in holders if sources]

    @cached_property
    def _share_of_voxels(self) -> NDArray[np.float64]:
        sizes = np.array([source.crop.grid.size for source in self.sources], float)
        return sizes / sizes.sum()

    def _place(self, rng: np.random.Generator, shape: Shape) -> tuple[Source, Shape]:
        """A crop, and where in it the patch of `shape` that is read begins."""
        source = self.sources[rng.choice(len(self.sources), p=self._share_of_voxels)]
        centre = rng.random(3) * source.crop.grid.shape
        if self._holders and rng.random() < ON_A_CLASS:
            label, sources = self._holders[rng.integers(len(self._holders))]
            holder = sources[rng.integers(len(sources))]
            voxels = holder.crop.positions(label)
            # An object so small that the search missed it: anywhere in the crop will do.
            source, centre = holder, rng.random(3) * holder.crop.grid.shape
            if len(voxels):
                centre = voxels[rng.integers(len(voxels))] + 0.5
        inner = np.array(self.training.patch_size)
        start = np.round(centre - inner / 2 + (rng.random(3) - 0.5) * inner / 2)
        # The patch lies in the crop, or the crop in the patch.
        slack = np.array(source.crop.grid.shape) - inner
        start = start.clip(np.minimum(slack, 0), np.maximum(slack, 0))
        z, y, x = (start - (np.array(shape) - inner) // 2).astype(int).tolist()
        return source, (z, y, x)


class Tiles:
    """Validation patches: fixed tiles over the validation crops, never changed.

    Processes that train together need equally many: numbers beyond the last tile give one of
    which nothing is known.
    """

    def __init__(self, sources: Sequence[Source], training: Training) -> None:
        self.shape = training.patch_size
        tiles = [
            (source, start)
            for source in sources
            for start in _tile_starts(source.crop.grid.shape, self.shape)
        ]
        wanted = training.validation_iterations * training.batch_size
        if len(tiles) > wanted:
            tiles = [tiles[i] for i in np.linspace(0, len(tiles) - 1, wanted).astype(int)]
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, number: int) -> Patch:
        """Tile `number`."""
        source, start = self.tiles[min(number, len(self.tiles) - 1)]
        patch = read_patch(source, start, self.shape, Change())
        return patch if number < len(self.tiles) else replace(patch, table=unknown(patch.table))


class EpochSampler(Sampler[int]):
    """Patch numbers of one epoch, split over the processes that train together.

    Lightning calls `set_epoch`.
    """

    def __init__(self, patches: int, rank: int = 0, world_size: int = 1) -> None:
        self.patches = patches
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.patches * self.world_size + self.rank
        return iter(range(first, first + self.patches * self.world_size, self.world_size))


def _tile_starts(shape: Shape, patch: Shape) -> list[Shape]:
    """Starts of patches that cover a crop, the last ones drawn back to its end."""
    axes = []
    for n, p in zip(shape, patch, strict=True):
        count = max(1, -(-n // p))
        last = n - p
        axes.append([round(i * last / max(1, count - 1)) if count > 1 else last // 2 for i in
                     range(count)])  # fmt: skip
    return [(z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]]
