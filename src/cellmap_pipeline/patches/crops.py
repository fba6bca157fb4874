"""Labeled crops, opened at a training's voxel size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.data.datasplit_csv import container_of, read_datasplit
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import (
    Grid,
    Shape,
    Vector,
    common_extent,
    intersection,
    shape_of,
    union,
)
from cellmap_pipeline.io.labels import LabelVolume, present_voxels
from cellmap_pipeline.io.raw_statistics import VolumeStatistics
from cellmap_pipeline.io.storage import Location, volumes_in
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.patches.normalization import BY_RANGE, Normalization, normalization_of

# Per crop and class: positions to keep, and voxels to search for them.
MAX_POSITIONS = 500
MAX_SEARCHED_VOXELS = 4_000_000
SEARCH_BOX_SIDE_VOXELS = 64
# In a folder of pseudo-labels, their numbers of voxels and digests.
PSEUDO_LABELS_SUMMARY = "summary.json"


@dataclass
class CropData:
    """A labeled crop whose volumes are opened on first access.

    Attributes
    ----------
    raw_path
        The raw volume.
    label_folder
        Folder with a label volume per class.
    annotated
        The classes to read.
    voxel_size
        The training's voxel size in nm.
    normalize
        `normalize` of the training's file.
    statistics
        Statistics of the raw volume; not needed by `normalize: range`.
    """

    raw_path: Location
    label_folder: Location
    annotated: Sequence[str]
    voxel_size: Vector
    normalize: str = "range"
    statistics: VolumeStatistics | None = None
    _positions: dict[str, NDArray[np.int32]] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """Name of the crop's dataset."""
        return Path(container_of(self.label_folder).name).stem

    @property
    def name(self) -> str:
        """Name of the crop, and of its folder below those of predictions and pseudo-labels."""
        return f"{self.dataset}/{self.label_folder.name}"

    @cached_property
    def raw(self) -> Volume:
        """The raw volume."""
        return Volume.open(self.raw_path)

    @cached_property
    def normalization(self) -> Normalization:
        """Normalization of the raw volume."""
        return normalization_of(self.normalize, self.raw, self.voxel_size, self.statistics)

    @cached_property
    def labels(self) -> dict[str, LabelVolume]:
        """The label volumes by class."""
        return {label: LabelVolume.open(self.label_folder / label) for label in self.annotated}

    @cached_property
    def pseudo_labels(self) -> dict[str, LabelVolume]:
        """Volumes of pseudo-labels by class, which only a `TaughtCrop` has."""
        return {}

    @cached_property
    def grid(self) -> Grid:
        """The grid of all labels of the crop at the training's voxel size."""
        extent = common_extent([label.volume.levels[0].grid for label in self.labels.values()])
        return self.raw.aligned(extent, self.voxel_size)

    @cached_property
    def present_classes(self) -> list[str]:
        """The annotated classes that have a voxel in the crop."""
        return [label for label, volume in self.labels.items() if present_voxels(volume) > 0]

    def positions(self, label: str) -> NDArray[np.int32]:
        """Up to `MAX_POSITIONS` voxels (n, 3) of `label`, by index on `grid`; always the same."""
        if label not in self._positions:
            self._positions[label] = self._find_positions(self._searched(label))
        return self._positions[label]

    def _searched(self, label: str) -> LabelVolume:
        """Return the volume in which voxels of `label` are searched."""
        return self.labels[label]

    def read_raw(self, start: Sequence[int], shape: Sequence[int]) -> NDArray:
        """Read raw of a box of `grid`, mirrored where there is none.

        A box without any raw is filled from the nearest voxels of raw.

        Returns
        -------
        (z, y, x) uint8 where raw is stored as uint8, else float32 in 0..1. Where it is normalized
        by its statistics, interpolated raw is float32, too.
        """
        level = self.raw.level_for(self.grid.voxel_size)
        box = self.grid.box(_nearest_overlap(start, shape, *self.grid.index_box(level.grid)), shape)
        first = level.grid.offset(box)
        is_bytes = level.metadata.dtype == np.uint8
        if is_bytes and first is not None and level.grid.covers(box):
            last = [a + n for a, n in zip(first, shape, strict=True)]
            if not level.missing_chunks(first, last).any():
                return level.read(first, last)
        # A patch far beyond the crop may be read, scaled, from a box without any of it.
        core = intersection(box, self.grid) if self.grid.overlaps(box) else box
        values = self.raw.read_raw(box, core=core)
        # Bytes are too coarse for interpolated raw that uses a small part of its range.
        if not is_bytes or self.normalization != BY_RANGE:
            return values
        # Round to the stored type, so that a quarter of the bytes is copied to the device.
        values *= 255
        return np.rint(values, out=values).astype(np.uint8)

    def _find_positions(self, volume: LabelVolume) -> NDArray[np.int32]:
        """Search for labeled voxels in boxes spread over the crop, at a coarse level."""
        factor = max(1, round((self.grid.size / MAX_SEARCHED_VOXELS) ** (1 / 3)))
        coarse = self.grid.at([v * factor for v in self.grid.voxel_size])
        # Labels without a level that coarse are searched in fewer places, at full resolution.
        if volume.volume.level_for(coarse.voxel_size).grid.size > 16 * MAX_SEARCHED_VOXELS:
            coarse, factor = self.grid, 1
        found: list[NDArray] = []
        for start, shape in spread_boxes(coarse.shape, MAX_SEARCHED_VOXELS):
            # By nearest voxel: by overlap, thin structures vanish from coarse voxels.
            ids, _ = volume.read_nearest(coarse.box(start, shape))
            found.append(np.argwhere(ids > 0) + start)
        voxels = np.concatenate(found)
        if len(voxels) > MAX_POSITIONS:
            voxels = voxels[np.linspace(0, len(voxels) - 1, MAX_POSITIONS).astype(int)]
        return (voxels * factor + factor // 2).astype(np.int32)


@dataclass
class TaughtCrop(CropData):
    """A labeled crop with the raw around it, of which pseudo-labels are known.

    Attributes
    ----------
    pseudo_folder
        Folder with a volume per class, 0, 1 or unknown, all on one grid. This crop's grid holds
        that and the labeled crop.
    """

    pseudo_folder: Path = field(kw_only=True)

    @cached_property
    def pseudo_labels(self) -> dict[str, LabelVolume]:
        """The volumes of pseudo-labels by class."""
        names = sorted(path.name for path in self.pseudo_folder.iterdir() if path.is_dir())
        return {name: LabelVolume.open(self.pseudo_folder / name) for name in names}

    @cached_property
    def grid(self) -> Grid:
        """The grid of the crop with the raw around it, at the training's voxel size."""
        labeled = CropData(self.raw_path, self.label_folder, self.annotated, self.voxel_size).grid
        around = next(iter(self.pseudo_labels.values())).volume.levels[0].grid
        return union([labeled, around])

    @cached_property
    def present_classes(self) -> list[str]:
        """The classes of which a voxel is found around the crop."""
        return [label for label in self.pseudo_labels if len(self.positions(label))]

    def _searched(self, label: str) -> LabelVolume:
        return self.pseudo_labels[label]


def _nearest_overlap(
    start: Sequence[int], shape: Sequence[int], low: Sequence[int], high: Sequence[int]
) -> Shape:
    """Return the nearest start of a box of `shape` that overlaps the box low..high by a voxel."""
    return shape_of(
        min(max(a, first - n + 1), last - 1)
        for a, n, first, last in zip(start, shape, low, high, strict=True)
    )


def spread_boxes(shape: Shape, max_voxels: int) -> list[tuple[Shape, Shape]]:
    """List start and shape of boxes over an array.

    The boxes cover it if they have up to about twice `max_voxels` in all; otherwise only evenly
    spread ones, about `max_voxels` in all, are listed.
    """
    side = SEARCH_BOX_SIDE_VOXELS
    boxes = []
    for index in np.ndindex(*(-(-n // side) for n in shape)):
        start = (index[0] * side, index[1] * side, index[2] * side)
        z, y, x = (min(side, n - s) for n, s in zip(shape, start, strict=True))
        boxes.append((start, (z, y, x)))
    wanted = max(1, max_voxels // side**3)
    if len(boxes) <= 2 * wanted:
        return boxes
    return [boxes[i] for i in np.linspace(0, len(boxes) - 1, wanted).astype(int)]


def open_crops(
    datasplit: Path,
    classes: Sequence[str],
    voxel_size: Vector,
    needs_validation: bool = True,
    normalize: str = "range",
    statistics: Mapping[str, VolumeStatistics] | None = None,
) -> dict[str, list[CropData]]:
    """Open the crops of a datasplit; return them under `train` and `validate`.

    Parameters
    ----------
    datasplit
        Path of the CSV.
    classes, voxel_size
        Classes and voxel size (nm) of the training.
    needs_validation
        Whether crops to validate on are required.
    normalize
        `normalize` of the training's file.
    statistics
        Statistics of the raw volumes by their paths; not needed by `normalize: range`.

    Raises
    ------
    InputError
        The datasplit is malformed, lacks crops to train on or, if validation is needed, to validate
        on, or a row has none of the requested classes.
    """
    crops: dict[str, list[CropData]] = {"train": [], "validate": []}
    for usage, raw, labels, annotated in read_datasplit(datasplit, classes, needs_validation):
        available = volumes_in(labels, annotated)
        if not available:
            raise InputError(f"{datasplit}: {labels} has none of {', '.join(annotated or classes)}")
        measured = (statistics or {}).get(str(raw))
        crops[usage].append(CropData(raw, labels, available, voxel_size, normalize, measured))
    return crops


def open_taught(crops: Sequence[CropData], folder: Path) -> list[TaughtCrop]:
    """Open training crops with the raw around them, as far as there are pseudo-labels.

    Parameters
    ----------
    crops
        The crops.
    folder
        The pseudo-labels, `{dataset}/crop{number}/{label}`
        (`prediction.pseudo_labels.write_pseudo_labels`).
    """
    return [
        TaughtCrop(
            crop.raw_path, crop.label_folder, crop.annotated, crop.voxel_size, crop.normalize,
            crop.statistics, pseudo_folder=taught,
        )
        for crop in crops
        if (taught := folder / crop.name).is_dir()
    ]  # fmt: skip
