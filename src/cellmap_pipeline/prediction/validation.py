"""Prediction of validation crops, in the same way as test crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.geometry import central_box
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.raw_statistics import VolumeStatistics
from cellmap_pipeline.io.storage import volumes_in
from cellmap_pipeline.patches.crops import CropData, open_crops
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.training.task import SegmentationTask

# Of larger crops, only the middle is predicted.
MAX_PREDICTED_VOXELS = 512**3


def predict_validation(
    tasks: Sequence[SegmentationTask],
    datasplit: Path,
    inference: Inference,
    parts: Mapping[str, Sequence[str]],
    predictions: Path,
    statistics: Mapping[str, VolumeStatistics] | None = None,
) -> None:
    """Predict the validation crops of a training.

    Parameters
    ----------
    tasks
        Trained networks, as for `predict_crop`.
    datasplit
        CSV file that lists the crops of the training.
    inference
        Settings of the prediction, as for test crops.
    parts
        By label that is composed of parts, these parts; they are predicted where the label is
        annotated.
    predictions
        Folder for the predictions, `{dataset}/crop{id}/{label}`, on the grids of the labels at
        about the training's voxel size.
    statistics
        Statistics of the raw volumes by their paths; not needed by `normalize: range`.
    """
    training = tasks[0].training_settings
    for crop in open_crops(datasplit, training.classes, training.voxel_size)["validate"]:
        rows = _rows(crop, parts)
        folder = predictions / rows[0].dataset / f"crop{rows[0].crop}"
        measured = (statistics or {}).get(str(crop.raw_path))
        predict_crop(tasks, crop.raw, rows, folder, inference, statistics=measured)


def _rows(crop: CropData, parts: Mapping[str, Sequence[str]]) -> list[CropLabel]:
    """List the labels to predict, on their grids at about the training's voxel size."""
    validation_crop = ValidationCrop.of(crop.label_folder)
    volumes = dict(crop.labels)
    for label, names in parts.items():
        if volumes_in(crop.label_folder, [label]):
            composed = LabelVolume.open(crop.label_folder / label)
            volumes |= {name: composed for name in names if name not in volumes}
    return [
        CropLabel(
            validation_crop.number, validation_crop.dataset, label,
            central_box(volume.volume.level_for(crop.voxel_size).grid, MAX_PREDICTED_VOXELS),
        )
        for label, volume in volumes.items()
    ]  # fmt: skip
