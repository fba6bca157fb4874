"""Choice of the patches to train on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.patches.augmentation.transform import draw_transform, shape_to_read
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.patch import CropReader, Patch, read_patch

# Share of patches that are centered near a voxel of a class, so that rare classes are seen; the
# others lie anywhere in a crop that annotates a class, so that its surroundings are seen.
CLASS_CENTERED_SHARE = 0.7


@dataclass(frozen=True)
class ClassCrops:
    """The crops in which the patches of a class may lie.

    Attributes
    ----------
    label
        The class.
    readers
        Readers of the crops.
    shares
        (n,) probability that each of them is drawn.
    """

    label: str
    readers: Sequence[CropReader]
    shares: NDArray[np.float64]

    def draw(self, rng: np.random.Generator) -> CropReader:
        """Draw a crop."""
        return self.readers[rng.choice(len(self.readers), p=self.shares)]


class RandomPatches:
    """Random patches by index: each patch is determined by its index alone, in any thread.

    Indices continue from epoch to epoch (`EpochSampler`), so that each epoch sees new patches.

    Parameters
    ----------
    readers
        Readers of the training crops.
    training
        Settings of the training.
    taught
        Readers of training crops with the pseudo-labels around them, from which `teach.share` of
        the patches are drawn.
    """

    def __init__(
        self,
        readers: Sequence[CropReader],
        training: Training,
        taught: Sequence[CropReader] = (),
    ) -> None:
        self.readers = list(readers)
        self.training = training
        self.taught = RandomPatches(taught, training) if taught else None

    def read(self, index: int) -> Patch:
        """Read the patch of an index."""
        training = self.training
        rng = np.random.default_rng([training.seed, index])
        transform = draw_transform(training.augment, rng, training.patch_size, training.voxel_size)
        shape = shape_to_read(transform, training.patch_size, training.voxel_size)
        reader, start = self._draw_location(rng, shape)
        return read_patch(reader, start, shape, transform)

    @cached_property
    def centered(self) -> list[ClassCrops]:
        """By class, the crops in which it occurs, all with the same share.

        These crops are for patches that are centered near a voxel of the class.
        """
        return self._by_class(lambda crop: crop.present_classes, lambda crop: 1)

    @cached_property
    def anywhere(self) -> list[ClassCrops]:
        """By class, the crops that annotate it, which are for patches anywhere in the crop.

        Their shares grow with the root of their size: a large crop shows more than a small one,
        but in proportion to voxels, few large crops would take nearly all patches.
        """
        return self._by_class(lambda crop: crop.annotated, lambda crop: crop.grid.size**0.5)

    def _by_class(
        self,
        classes_of: Callable[[CropData], Collection[str]],
        weight_of: Callable[[CropData], float],
    ) -> list[ClassCrops]:
        """List the classes of some crop, each with its crops and their shares by weight."""
        oversample = self.training.oversample
        found = []
        for label in self.training.classes:
            readers = [reader for reader in self.readers if label in classes_of(reader.crop)]
            weights = np.array([weight_of(reader.crop) for reader in readers], float)
            if oversample:
                weights *= [oversample.weight(reader.crop.dataset) for reader in readers]
            if readers:
                found.append(ClassCrops(label, readers, weights / weights.sum()))
        return found

    def _draw_location(self, rng: np.random.Generator, shape: Shape) -> tuple[CropReader, Shape]:
        """Draw a class, a crop, and where in it to start reading `shape`."""
        teach = self.training.teach
        if self.taught and teach and rng.random() < teach.share:
            return self.taught._draw_location(rng, shape)
        is_centered = bool(self.centered) and rng.random() < CLASS_CENTERED_SHARE
        by_class = self.centered if is_centered else self.anywhere
        crops = by_class[rng.integers(len(by_class))]
        reader = crops.draw(rng)
        center = rng.random(3) * reader.crop.grid.shape
        if is_centered:
            voxels = reader.crop.positions(crops.label)
            # If the search missed the object because it is small, take any place in the crop.
            if len(voxels):
                center = voxels[rng.integers(len(voxels))] + 0.5
        patch_shape = np.array(self.training.patch_size)
        start = np.round(center - patch_shape / 2 + (rng.random(3) - 0.5) * patch_shape / 2)
        # Along each axis, the patch lies within the crop, or the crop within the patch.
        slack = np.array(reader.crop.grid.shape) - patch_shape
        start = start.clip(np.minimum(slack, 0), np.maximum(slack, 0))
        z, y, x = (start - (np.array(shape) - patch_shape) // 2).astype(int).tolist()
        return reader, (z, y, x)


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
