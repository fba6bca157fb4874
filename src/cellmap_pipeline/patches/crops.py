"""Labelled crops, opened at a training's voxel size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.data.datasplit_csv import read_datasplit
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape, Vector, intersection
from cellmap_pipeline.io.labels import LabelVolume, present_voxels
from cellmap_pipeline.io.storage import Location, volumes_in
from cellmap_pipeline.io.volumes import Volume

# Positions kept per crop and class, and how many voxels are looked at to find them.
POSITIONS = 500
LOOKED_AT = 4_000_000
BOX = 64


@dataclass
class CropData:
    """A labelled crop, opened when it is first read.

    Attributes
    ----------
    raw_path
        The raw volume.
    label_folder
        Holds a label volume per class.
    annotated
        The classes to read.
    voxel_size
        Of the training, nm.
    """

    raw_path: Location
    label_folder: Location
    annotated: Sequence[str]
    voxel_size: Vector
    _positions: dict[str, NDArray[np.int32]] = field(default_factory=dict)

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

    @cached_property
    def present(self) -> list[str]:
        """The annotated classes that have a voxel in the crop."""
        return [label for label, volume in self.labels.items() if present_voxels(volume) > 0]

    def positions(self, label: str) -> NDArray[np.int32]:
        """Some voxels (n, 3) of `label`, by index on `grid`; the same each time."""
        if label not in self._positions:
            self._positions[label] = self._find(label)
        return self._positions[label]

    def read_raw(self, start: Sequence[int], shape: Sequence[int]) -> NDArray:
        """Raw of a box of `grid`, mirrored where there is none.

        Returns
        -------
        (z, y, x) uint8 where raw is stored so, else float32 0..1.
        """
        box = self.grid.box(start, shape)
        level = self.raw.level_for(self.grid.voxel_size)
        first = level.grid.offset(box)
        is_bytes = np.dtype(level.metadata["dtype"]) == np.uint8
        if is_bytes and first is not None and level.grid.covers(box):
            last = [a + n for a, n in zip(first, shape, strict=True)]
            if not level.missing_chunks(first, last).any():
                return level.read(first, last)
        values = self.raw.read_raw(box, core=intersection(box, self.grid))
        if not is_bytes:
            return values
        # To a step of the stored type, so that it travels in a quarter of the bytes.
        values *= 255
        return np.rint(values, out=values).astype(np.uint8)

    def _find(self, label: str) -> NDArray[np.int32]:
        """Look for `label` in boxes spread over the crop, at a coarse level."""
        factor = max(1, round((self.grid.size / LOOKED_AT) ** (1 / 3)))
        stored = self.labels[label].volume
        coarse = self.grid.at([v * factor for v in self.grid.voxel_size])
        # Where labels are not stored that coarse, less of them is looked at, in full.
        if stored.level_for(coarse.voxel_size).grid.size > 16 * LOOKED_AT:
            coarse, factor = self.grid, 1
        found: list[NDArray] = []
        for start, shape in spread_boxes(coarse.shape, LOOKED_AT):
            ids, _ = self.labels[label].read(coarse.box(start, shape))
            found.append(np.argwhere(ids > 0) + start)
        voxels = np.concatenate(found)
        if len(voxels) > POSITIONS:
            voxels = voxels[np.linspace(0, len(voxels) - 1, POSITIONS).astype(int)]
        return (voxels * factor + factor // 2).astype(np.int32)


def spread_boxes(shape: Shape, voxels: int) -> list[tuple[Shape, Shape]]:
    """Start and shape of boxes that cover an array, or evenly spread ones of about `voxels`."""
    boxes = []
    for index in np.ndindex(*(-(-n // BOX) for n in shape)):
        start = (index[0] * BOX, index[1] * BOX, index[2] * BOX)
        z, y, x = (min(BOX, n - s) for n, s in zip(shape, start, strict=True))
        boxes.append((start, (z, y, x)))
    wanted = max(1, voxels // BOX**3)
    if len(boxes) <= 2 * wanted:
        return boxes
    return [boxes[i] for i in np.linspace(0, len(boxes) - 1, wanted).astype(int)]


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
        there = volumes_in(labels, annotated)
        if not there:
            raise InputError(f"{datasplit}: {labels} has none of {', '.join(annotated or classes)}")
        crops[usage].append(CropData(raw, labels, there, voxel_size))
    return crops
