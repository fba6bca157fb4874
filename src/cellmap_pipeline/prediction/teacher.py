"""Prediction of the raw around training crops by the network that teaches another one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.io.raw_statistics import VolumeStatistics
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.training.task import SegmentationTask


def predict_surroundings(
    tasks: Sequence[SegmentationTask],
    crops: Sequence[CropData],
    classes: Sequence[str],
    margin: Shape,
    inference: Inference,
    predictions: Path,
    statistics: Mapping[str, VolumeStatistics] | None = None,
) -> None:
    """Predict training crops with the raw around them, as far as it is there.

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
    inference
        Settings of the teacher's prediction, as for test crops.
    predictions
        Folder for the predictions, `{dataset}/crop{id}/{label}`. Crops that are complete in it are
        not predicted again.
    statistics
        Statistics of the raw volumes by their paths; not needed by `normalize: range`.
    """
    for crop in tqdm(crops, desc="Predicting around crops", unit="crop", disable=None):
        around = crop.raw.available(crop.grid.padded(margin), core=crop.grid)
        number = int(re.sub(r"\D", "", crop.label_folder.name) or 0)
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
