"""How good a training is: its validation crops predicted like test crops, tuned and scored."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance, output_channels
from cellmap_pipeline.config import Inference
from cellmap_pipeline.crops import CropData, open_crops
from cellmap_pipeline.manifest import CropLabel
from cellmap_pipeline.prediction import predict_crop
from cellmap_pipeline.task import SegmentationTask
from cellmap_pipeline.tuning import Case, tune
from cellmap_pipeline.volumes import Volume

log = logging.getLogger(__name__)


def validate(
    tasks: Sequence[SegmentationTask],
    datasplit: Path,
    inference: Inference,
    predictions: Path,
    workers: int = 1,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Predict the validation crops, tune the post-processing of each class, and score it.

    Parameters
    ----------
    tasks : as for `predict_crop`.
    datasplit : its crops.
    inference : as for test crops.
    predictions : folder for the predictions, `{dataset}/crop{id}/{label}`.
    workers : threads for tuning.

    Returns
    -------
    scores : `classes`: per class the official `score` on the validation crops with the settings
        found, the same with plain 0.5 (`score_at_half`), the curve over the threshold, and
        counts; `overall_instance_score`, `overall_semantic_score`, `overall_score` as official.
    settings : per class the settings found.
    """
    training = tasks[0].training_settings
    crops = open_crops(datasplit, training.classes, training.voxel_size)["validate"]
    rows_of = [(crop, _rows(crop)) for crop in crops]
    for crop, rows in rows_of:
        predict_crop(tasks, crop.raw, rows, _folder(predictions, rows[0]), inference)
    classes: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for label in training.classes:
        cases = [
            _case(crop, row, _folder(predictions, row))
            for crop, rows in rows_of
            for row in rows
            if row.label == label
        ]
        if not cases:
            log.warning("no validation crop annotates %s: it keeps the default settings", label)
            continue
        tuned = tune(label, cases, workers=workers)
        settings[label] = tuned.pop("settings")
        classes[label] = tuned
        log.info("%s: %.4f (0.5: %.4f)", label, tuned["score"], tuned["score_at_half"])
    return {"classes": classes} | _overall(classes), settings


def read_probabilities(folder: Path, label: str) -> dict[str, NDArray[np.uint8]]:
    """The channels of `label` in a crop's folder of predictions, each (z, y, x) uint8."""
    return {
        channel: _read_all(Volume.open(folder / channel))
        for channel in output_channels([label])
        if (folder / channel).is_dir()
    }


def _rows(crop: CropData) -> list[CropLabel]:
    """The crop's labels as if it were a test crop, on their grids at about the training's size."""
    number = int(crop.label_folder.name.removeprefix("crop"))
    dataset = next(
        part.removesuffix(".zarr") for part in crop.label_folder.parts if part.endswith(".zarr")
    )
    return [
        CropLabel(number, dataset, label, volume.volume.level_for(crop.voxel_size).grid)
        for label, volume in crop.labels.items()
    ]


def _folder(predictions: Path, row: CropLabel) -> Path:
    return predictions / row.dataset / f"crop{row.crop}"


def _case(crop: CropData, row: CropLabel, folder: Path) -> Case:
    truth, known = crop.labels[row.label].read(row.grid)
    return Case(
        channels=read_probabilities(folder, row.label),
        truth=truth,
        known=known,
        voxel_size=row.grid.voxel_size,
    )


def _read_all(volume: Volume) -> NDArray:
    level = volume.levels[0]
    array: ts.TensorStore = level.array
    return array.read(order="C").result()


def _overall(classes: dict[str, Any]) -> dict[str, float]:
    """Class means and their geometric mean, as the official score takes them."""
    instance = [value["score"] for label, value in classes.items() if is_instance(label)]
    semantic = [value["score"] for label, value in classes.items() if not is_instance(label)]
    means = [_mean(instance), _mean(semantic)]
    return {
        "overall_instance_score": means[0],
        "overall_semantic_score": means[1],
        "overall_score": math.sqrt(means[0] * means[1]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
