"""Estimates of how long the post-processing of a training is tuned, before the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cellmap_pipeline.channels import auxiliary_kinds
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.validation import validation_tasks
from cellmap_pipeline.segmentation.method_settings import search_spaces
from cellmap_pipeline.validation.search import expected_steps
from cellmap_pipeline.validation.tuning import screened_voxels
from cellmap_pipeline.validation.validate import (
    MAX_FRAGMENT_SETTINGS,
    MAX_INSTANCE_VOXELS,
    MAX_INSTANCE_VOXELS_PER_CROP,
    MAX_SEMANTIC_VOXELS,
)

# CPU-seconds per voxel and tried settings, measured in 2026: fragments of instances are found, then
# estimated or scored (benchmarks/tuning.py); semantic labels are smoothed, cleaned and counted.
INSTANCE_SECONDS, SEMANTIC_SECONDS = 0.6e-6, 0.03e-6


def tuning_hours(
    plan: Plan, name: str, crops: Sequence[LabeledCrop] | None
) -> dict[str, tuple[int, float]]:
    """Estimate what tuning takes, by label that a training predicts and validates.

    Parameters
    ----------
    plan
        The plan of the run.
    name
        Name of the training.
    crops
        The training's crops; None if they are not known yet.

    Returns
    -------
    Voxels on which settings are searched, and CPU-hours. Without crops, these are the most that any
    crops take; labels that no crop has are left out.
    """
    training = plan.trainings[name]
    share = 1.0 if training.validation == "folds" else plan.config.split.validation_fraction
    found = {}
    for label, tasks in validation_tasks(plan, name).items():
        predicted = auxiliary_kinds(label, training.channels)
        sizes = [size for task in tasks for size in task.voxel_sizes or [training.voxel_size]]
        total, seconds = 0, 0.0
        for size in sizes:
            whole, screened = _searched_voxels(label, size, crops, share)
            spaces = search_spaces(label, predicted, size)
            steps = expected_steps(label, spaces, MAX_FRAGMENT_SETTINGS, screened, whole)
            total += whole
            rate = INSTANCE_SECONDS if is_instance(label) else SEMANTIC_SECONDS
            seconds += rate * sum(steps)
        if total:
            found[label] = total, seconds / 3600
    return found


def _searched_voxels(
    label: str, voxel_size: Sequence[float], crops: Sequence[LabeledCrop] | None, share: float
) -> tuple[int, int]:
    """Return on how many voxels settings of a label are searched, and screened."""
    instance = is_instance(label)
    most = MAX_INSTANCE_VOXELS if instance else MAX_SEMANTIC_VOXELS
    if crops is None:
        return most, screened_voxels(most)
    sizes = [
        round(math.prod(n * v / max(v, w) for n, v, w in zip(
            crop.grid.shape, crop.grid.voxel_size, voxel_size, strict=True
        )))
        for crop in crops
        if crop.present.get(label)
    ]  # fmt: skip
    if not sizes:
        return 0, 0
    n_crops = max(1, round(share * len(sizes)))
    per_crop = min(sum(sizes) // len(sizes), most // n_crops)
    if instance:
        per_crop = min(per_crop, MAX_INSTANCE_VOXELS_PER_CROP)
    return n_crops * per_crop, n_crops * screened_voxels(per_crop)
