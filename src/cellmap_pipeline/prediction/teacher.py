"""Prediction of the raw around training crops by the network that teaches another one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.datasplit_csv import crop_number
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape, Vector, common_extent
from cellmap_pipeline.io.raw_statistics import VolumeStatistics
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)

GridValues = tuple[Vector, Vector, Shape]


def predict_surroundings(
    tasks: Sequence[SegmentationTask],
    crops: Sequence[CropData],
    classes: Sequence[str],
    margin: Shape,
    hidden: Mapping[str, Sequence[Grid]],
    inference: Inference,
    predictions: Path,
    statistics: Mapping[str, VolumeStatistics] | None = None,
) -> None:
    """Predict the raw around training crops, as far as it is there and may be labeled.

    Parameters
    ----------
    tasks
        Trained networks of the teacher, as for `predict_crop`.
    crops
        The training crops of the network that is taught, at its voxel size.
    classes
        The classes that both predict.
    margin
        Voxels (z, y, x) of that size to predict on each side of a crop.
    hidden
        By crop, extents within which nothing is to be known (`hidden_extents`).
    inference
        Settings of the teacher's prediction, as for test crops.
    predictions
        Folder for the predictions, `{dataset}/crop{id}/{label}`, each on the box of all voxels that
        may be labeled; crops without such voxels have none. Crops that are complete in it are not
        predicted again.
    statistics
        Statistics of the raw volumes by their paths; not needed by `normalize: range`.
    """
    for crop in tqdm(crops, desc="Predicting around crops", unit="crop", disable=None):
        around = _box_to_label(crop, margin, hidden[crop.name])
        if around is None:
            log.info("%s: all raw around it lies in other crops", crop.name)
            continue
        number = crop_number(crop.label_folder)
        rows = [CropLabel(number, crop.dataset, label, around) for label in classes]
        predict_crop(
            tasks,
            crop.raw,
            rows,
            predictions / crop.name,
            inference,
            statistics=(statistics or {}).get(str(crop.raw_path)),
            with_auxiliary=False,
        )


def hidden_extents(
    crops: Mapping[str, Sequence[CropData]], test_crops: Mapping[str, Sequence[GridValues]]
) -> dict[str, list[Grid]]:
    """List, by the name of each training crop, the extents in which a teacher labels nothing.

    These are all crops of the same specimen. In a data split of one's own, they may lie in another
    container than the raw, or their labels in several, so they are also known by their raw.

    Parameters
    ----------
    crops
        The crops of the network that is taught, under `train` and `validate`: in the former, it
        learns the ground truth, and of the latter nothing.
    test_crops
        By dataset, voxel size (nm), translation (nm) and shape of each test crop.

    Raises
    ------
    InputError
        Two training crops have the same name, by which predictions and pseudo-labels are stored.
    """
    annotated = [
        (
            _specimens(crop),
            common_extent([label.volume.levels[0].grid for label in crop.labels.values()]),
        )
        for crop in (*crops["train"], *crops["validate"])
    ]
    annotated += [({name}, Grid(*grid)) for name, grids in test_crops.items() for grid in grids]
    extents: dict[str, list[Grid]] = {}
    for crop in crops["train"]:
        if crop.name in extents:
            raise InputError(
                f"teach: the data split has two crops to train on that are called {crop.name}, so "
                "their pseudo-labels would be mistaken for each other: rename the container, or "
                "the folder, of one of them"
            )
        own = _specimens(crop)
        extents[crop.name] = [grid for specimens, grid in annotated if own & specimens]
    return extents


def _specimens(crop: CropData) -> set[str]:
    """Return names of a crop's dataset, by its labels and by its raw, and the path of the raw."""
    raw = crop.raw_path.resolve() if isinstance(crop.raw_path, Path) else crop.raw_path
    parts = (*crop.raw_path.parts, *raw.parts)
    containers = {Path(part).stem for part in parts if part.endswith((".zarr", ".n5"))}
    return {crop.dataset, str(raw), *containers}


def fill_overlaps(values: NDArray, grid: Grid, extents: Sequence[Grid], value: int) -> None:
    """Set the voxels of `values` on `grid`, in place, that any of `extents` overlaps."""
    for extent in extents:
        start, stop = grid.index_box(extent)
        values[tuple(slice(max(0, a), max(0, b)) for a, b in zip(start, stop, strict=True))] = value


def _box_to_label(crop: CropData, margin: Shape, hidden: Sequence[Grid]) -> Grid | None:
    """Return the box of all voxels around a crop that may be labeled; None if there are none."""
    around = crop.raw.available(crop.grid.padded(margin), core=crop.grid)
    _, rows, columns = around.shape
    may_be = [np.zeros(n, bool) for n in around.shape]
    # Plane by plane, since all raw around a crop may not fit into memory.
    for number in range(around.shape[0]):
        free = np.ones((1, rows, columns), bool)
        fill_overlaps(free, around.box((number, 0, 0), free.shape), hidden, False)
        may_be[0][number] = free.any()
        may_be[1] |= free.any(axis=(0, 2))
        may_be[2] |= free.any(axis=(0, 1))
    if not may_be[0].any():
        return None
    ranges = [(int(places[0]), int(places[-1]) + 1) for places in map(np.flatnonzero, may_be)]
    return around.box([a for a, _ in ranges], [b - a for a, b in ranges])
