"""Training patches: raw and targets of all classes at a training's voxel size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from cellmap_pipeline.augment import augment, rotation_margin
from cellmap_pipeline.classes import output_channels
from cellmap_pipeline.config import Training
from cellmap_pipeline.datasplit import read_datasplit
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape, Vector
from cellmap_pipeline.targets import make_targets
from cellmap_pipeline.volumes import LabelVolume, Volume

# Share of patches that are centred on a voxel of a class, so that rare classes come up; the
# others lie anywhere in a crop.
ON_A_CLASS = 0.7
# Positions kept per crop and class, found on voxels this many times coarser than the training's.
POSITIONS = 2000
COARSER = 2


@dataclass
class CropData:
    """A labelled crop, opened when it is first read."""

    raw_path: Path
    label_folder: Path
    annotated: Sequence[str]
    voxel_size: Vector
    _positions: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @cached_property
    def raw(self) -> Volume:
        """The raw volume."""
        return Volume.open(self.raw_path)

    @cached_property
    def labels(self) -> dict[str, LabelVolume]:
        """The annotated classes."""
        return {label: LabelVolume.open(self.label_folder / label) for label in self.annotated}

    @cached_property
    def grid(self) -> Grid:
        """The crop in voxels of the training's size."""
        extent = next(iter(self.labels.values())).volume.levels[0].grid
        return self.raw.aligned(extent, self.voxel_size)

    def positions(self, label: str) -> NDArray[np.float64]:
        """World positions (n, 3), nm, of some voxels of `label`, the same each time."""
        if label not in self._positions:
            coarse = self.grid.at([v * COARSER for v in self.grid.voxel_size])
            ids, _ = self.labels[label].read(coarse)
            found = np.argwhere(ids > 0)
            if len(found) > POSITIONS:
                found = found[np.linspace(0, len(found) - 1, POSITIONS).astype(int)]
            self._positions[label] = found * coarse.voxel_size + np.array(coarse.translation)
        return self._positions[label]

    def read(self, grid: Grid, channels: Sequence[str]) -> tuple[NDArray, NDArray]:
        """Raw (z, y, x) float32 0..1 and targets (c, z, y, x) uint8, 255 where unknown."""
        read = {label: volume.read(grid) for label, volume in self.labels.items()}
        targets = make_targets(
            {label: ids for label, (ids, _) in read.items()},
            {label: known for label, (_, known) in read.items()},
            channels,
        )
        return self.raw.read_raw(grid, core=_intersection(grid, self.grid)), targets


class PatchDataset(Dataset):
    """Patches by number: the same number gives the same patch, in any process.

    Numbers go on from epoch to epoch (`EpochSampler`), so that every epoch sees other patches.
    """

    def __init__(self, crops: Sequence[CropData], training: Training) -> None:
        self.crops = list(crops)
        self.training = training
        self.channels = output_channels(training.classes)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw (1, z, y, x) float32 and targets (c, z, y, x) uint8 of patch `number`."""
        training = self.training
        rng = np.random.default_rng([training.seed, number])
        shape = rotation_margin(training.patch_size, training.augment.rotate, training.voxel_size)
        crop, grid = self._place(rng, shape)
        raw, target = crop.read(grid, self.channels)
        raw, target = augment(
            raw, target, training.augment, rng, training.patch_size, training.voxel_size
        )
        return torch.from_numpy(raw[None]), torch.from_numpy(target)

    @cached_property
    def _holders(self) -> list[tuple[str, list[int]]]:
        """Classes that some crop holds, with those crops."""
        holders = []
        for label in self.training.classes:
            crops = [
                i
                for i, crop in enumerate(self.crops)
                if label in crop.annotated and len(crop.positions(label))
            ]
            if crops:
                holders.append((label, crops))
        return holders

    def _place(self, rng: np.random.Generator, shape: Shape) -> tuple[CropData, Grid]:
        """A crop and the patch of `shape` to read from it."""
        if self._holders and rng.random() < ON_A_CLASS:
            label, crops = self._holders[rng.integers(len(self._holders))]
            crop = self.crops[crops[rng.integers(len(crops))]]
            position = crop.positions(label)[rng.integers(len(crop.positions(label)))]
            centre = (position - crop.grid.translation) / crop.grid.voxel_size
        else:
            sizes = np.array([crop.grid.size for crop in self.crops], float)
            crop = self.crops[rng.choice(len(self.crops), p=sizes / sizes.sum())]
            centre = rng.random(3) * crop.grid.shape
        inner = np.array(self.training.patch_size)
        start = np.round(centre - inner / 2 + (rng.random(3) - 0.5) * inner / 2)
        # The patch lies in the crop, or the crop in the patch.
        slack = np.array(crop.grid.shape) - inner
        start = start.clip(np.minimum(slack, 0), np.maximum(slack, 0))
        start -= (np.array(shape) - inner) // 2
        return crop, crop.grid.box(start.astype(int), shape)


class TileDataset(Dataset):
    """Validation patches: fixed tiles over the validation crops, never augmented."""

    def __init__(self, crops: Sequence[CropData], training: Training) -> None:
        self.channels = output_channels(training.classes)
        tiles = [
            (crop, crop.grid.box(start, training.patch_size))
            for crop in crops
            for start in _tile_starts(crop.grid.shape, training.patch_size)
        ]
        wanted = training.validation_iterations * training.batch_size
        if len(tiles) > wanted:
            tiles = [tiles[i] for i in np.linspace(0, len(tiles) - 1, wanted).astype(int)]
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw (1, z, y, x) float32 and targets (c, z, y, x) uint8 of tile `number`."""
        crop, grid = self.tiles[number]
        raw, target = crop.read(grid, self.channels)
        return torch.from_numpy(raw[None]), torch.from_numpy(target)


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


def open_crops(
    datasplit: Path, classes: Sequence[str], voxel_size: Vector
) -> dict[str, list[CropData]]:
    """The crops of a datasplit, `train` and `validate`.

    Raises
    ------
    InputError
        The datasplit is malformed, or a row has no class that is wanted.
    """
    crops: dict[str, list[CropData]] = {"train": [], "validate": []}
    for usage, raw, labels, annotated in read_datasplit(datasplit, classes):
        there = [label for label in annotated if (labels / label).is_dir()]
        if not there:
            raise InputError(f"{datasplit}: {labels} has none of {', '.join(annotated or classes)}")
        crops[usage].append(CropData(raw, labels, there, voxel_size))
    return crops


def loaders(
    crops: dict[str, list[CropData]], training: Training, rank: int = 0, world_size: int = 1
) -> tuple[DataLoader, DataLoader]:
    """Batches to train on and to validate with: raw (n, 1, z, y, x), targets (n, c, z, y, x)."""
    # Started afresh: threads that read chunks don't survive a fork.
    workers: dict[str, Any] = {
        "num_workers": training.num_workers,
        "multiprocessing_context": "spawn" if training.num_workers else None,
        "persistent_workers": training.num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }
    patches = training.iterations_per_epoch * training.batch_size
    train = DataLoader(
        PatchDataset(crops["train"], training),
        batch_size=training.batch_size,
        sampler=EpochSampler(patches, rank, world_size),
        **workers,
    )
    validate = DataLoader(
        TileDataset(crops["validate"], training), batch_size=training.batch_size, **workers
    )
    return train, validate


def _tile_starts(shape: Shape, patch: Shape) -> list[Shape]:
    """Starts of patches that cover a crop, the last ones drawn back to its end."""
    axes = []
    for n, p in zip(shape, patch, strict=True):
        count = max(1, -(-n // p))
        last = n - p
        axes.append([round(i * last / max(1, count - 1)) if count > 1 else last // 2 for i in
                     range(count)])  # fmt: skip
    return [(z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]]


def _intersection(a: Grid, b: Grid) -> Grid:
    """The part of `a` that `b` overlaps, on a's voxels."""
    start, stop = a.index_box(b)
    low = [max(0, s) for s in start]
    high = [min(n, e) for n, e in zip(a.shape, stop, strict=True)]
    return a.box(low, [e - s for s, e in zip(low, high, strict=True)])
