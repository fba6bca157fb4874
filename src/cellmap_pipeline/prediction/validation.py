"""Prediction of validation crops, in the same way as of test crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cellmap_pipeline.config.training import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.geometry import middle
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.storage import volumes_in
from cellmap_pipeline.patches.crops import CropData, open_crops
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.training.task import SegmentationTask

# Larger crops are predicted in their middle only, in voxels of the network.
MOST_PREDICTED = 512**3


def predict_validation(
    tasks: Sequence[SegmentationTask],
    datasplit: Path,
    inference: Inference,
    parts: Mapping[str, Sequence[str]],
    predictions: Path,
) -> None:
    """Predict the validation crops of a training.

    Parameters
    ----------
    tasks
        As for `predict_crop`.
    datasplit
        Its crops.
    inference
        As for test crops.
    parts
        By label that is made of others, these: they are predicted where the label is annotated.
    predictions
        Folder for the predictions, `{dataset}/crop{id}/{label}`, on the grids of the labels at
        about the training's voxel size.
    """
    training = tasks[0].training_settings
    for crop in open_crops(datasplit, training.classes, training.voxel_size)["validate"]:
        rows = _rows(crop, parts)
        first = rows[0]
        predict_crop(
            tasks, crop.raw, rows, predictions / first.dataset / f"crop{first.crop}", inference
        )


def _rows(crop: CropData, parts: Mapping[str, Sequence[str]]) -> list[CropLabel]:
    """The crop's labels as if it were a test crop, on their grids at about the training's size."""
    at = ValidationCrop.of(crop.label_folder)
    volumes = dict(crop.labels)
    for label, names in parts.items():
        if volumes_in(crop.label_folder, [label]):
            whole = LabelVolume.open(crop.label_folder / label)
            volumes |= {name: whole for name in names if name not in volumes}
    return [
        CropLabel(
            at.number, at.dataset, label,
            middle(volume.volume.level_for(crop.voxel_size).grid, MOST_PREDICTED),
        )
        for label, volume in volumes.items()
    ]  # fmt: skip
