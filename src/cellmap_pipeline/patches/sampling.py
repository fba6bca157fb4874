"""Choice of the patches to train on and of the tiles to validate on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.patches.augmentation import PatchTransform, draw_transform, shape_to_read
from cellmap_pipeline.patches.patch import CropReader, Patch, all_unknown, read_patch

# Share of patches that are centered near a voxel of a class, so that rare classes are seen; the
# others lie anywhere in a crop.
CLASS_CENTERED_SHARE = 0.7


class RandomPatches:
    """Random patches by index: each patch is determined by its index alone, in any thread.

    Indices continue from epoch to epoch (`EpochSampler`), so that each epoch sees new patches.
    """

    def __init__(self, readers: Sequence[CropReader], training: Training) -> None:
        self.readers = list(readers)
        self.training = training

    def read(self, index: int) -> Patch:
        """Read the patch of an index."""
        training = self.training
        rng = np.random.default_rng([training.seed, index])
        transform = draw_transform(training.augment, rng, training.patch_size, training.voxel_size)
        shape = shape_to_read(transform, training.patch_size, training.voxel_size)
        reader, start = self._draw_location(rng, shape)
        return read_patch(reader, start, shape, transform)

    @cached_property
    def _readers_by_class(self) -> list[tuple[str, list[CropReader]]]:
        """Classes that occur in some crop, with the readers of these crops."""
        by_class = [
            (label, [reader for reader in self.readers if label in reader.crop.present_classes])
            for label in self.training.classes
        ]
        return [(label, readers) for label, readers in by_class if readers]

    @cached_property
    def _share_of_voxels(self) -> NDArray[np.float64]:
        sizes = np.array([reader.crop.grid.size for reader in self.readers], float)
        return sizes / sizes.sum()

    def _draw_location(self, rng: np.random.Generator, shape: Shape) -> tuple[CropReader, Shape]:
        """Draw a crop, and where in it to start reading `shape`."""
        reader = self.readers[rng.choice(len(self.readers), p=self._share_of_voxels)]
        center = rng.random(3) * reader.crop.grid.shape
        if self._readers_by_class and rng.random() < CLASS_CENTERED_SHARE:
            label, readers = self._readers_by_class[rng.integers(len(self._readers_by_class))]
            reader = readers[rng.integers(len(readers))]
            voxels = reader.crop.positions(label)
            # If the search missed the object because it is small, take any place in the crop.
            center = rng.random(3) * reader.crop.grid.shape
            if len(voxels):
                center = voxels[rng.integers(len(voxels))] + 0.5
        patch_shape = np.array(self.training.patch_size)
        start = np.round(center - patch_shape / 2 + (rng.random(3) - 0.5) * patch_shape / 2)
        # Along each axis, the patch lies within the crop, or the crop within the patch.
        slack = np.array(reader.crop.grid.shape) - patch_shape
        start = start.clip(np.minimum(slack, 0), np.maximum(slack, 0))
        z, y, x = (start - (np.array(shape) - patch_shape) // 2).astype(int).tolist()
        return reader, (z, y, x)


class ValidationTiles:
    """Validation patches: fixed tiles over the validation crops, without augmentation.

    Processes that train together need the same number of tiles: an index beyond the last tile
    gives a tile whose targets are all unknown.
    """

    def __init__(self, readers: Sequence[CropReader], training: Training) -> None:
        self.shape = training.patch_size
        tiles = [
            (reader, start)
            for reader in readers
            for start in _tile_starts(reader.crop.grid.shape, self.shape)
        ]
        max_tiles = training.validation_iterations * training.batch_size
        if len(tiles) > max_tiles:
            tiles = [tiles[i] for i in np.linspace(0, len(tiles) - 1, max_tiles).astype(int)]
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, index: int) -> Patch:
        """Read the tile of an index."""
        reader, start = self.tiles[min(index, len(self.tiles) - 1)]
        patch = read_patch(reader, start, self.shape, PatchTransform())
        return patch if index < len(self.tiles) else replace(patch, table=all_unknown(patch.table))


class EpochSampler(Sampler[int]):
    """Patch indices of one epoch, split over the processes that train together.

    Lightning calls `set_epoch`.
    """

    def __init__(self, patches: int, rank: int = 0, world_size: int = 1) -> None:
        self.patches = patches
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration is for."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.patches

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.patches * self.world_size + self.rank
        return iter(range(first, first + self.patches * self.world_size, self.world_size))


def _tile_starts(shape: Shape, patch: Shape) -> list[Shape]:
    """List the starts of tiles that cover a crop, evenly spaced from its start to its end.

    A crop smaller than a tile lies in the tile's center.
    """
    axes = []
    for n, p in zip(shape, patch, strict=True):
        count = max(1, -(-n // p))
        last = n - p
        axes.append([round(i * last / max(1, count - 1)) if count > 1 else last // 2 for i in
                     range(count)])  # fmt: skip
    return [(z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]]
