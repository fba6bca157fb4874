"""What the jobs of a run ask a cluster for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cellmap_pipeline.config.training import JobStage, Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import union

# What a job of a training asks a cluster for, unless its file says otherwise; MB and minutes.
RESOURCES = {
    "train": {"mem_mb": 16000, "runtime": 2880, "cpus_per_task": 0},
    "validate": {"mem_mb": 32000, "runtime": 480, "cpus_per_task": 8},
    "predict": {"mem_mb": 16000, "runtime": 720, "cpus_per_task": 8},
}
# The same, for each GPU that trains; and for each GB that its loader may keep.
PER_DEVICE = {"mem_mb": 8000, "cpus_per_task": 8}
PER_LOADER_GB = 2000
# Of a crop to be labelled, for each process.
THREAD_VOXELS = 32_000_000


def resources(training: Training, stage: JobStage) -> dict[str, int]:
    """What a training's jobs of `stage` ask a cluster for."""
    asked = dict(RESOURCES[stage])
    if stage == "train":
        for key, value in PER_DEVICE.items():
            asked[key] += value * training.devices
        asked["mem_mb"] += round(PER_LOADER_GB * training.memory_gb) * training.devices
    own = training.resources.get(stage)
    return asked | (own.model_dump(exclude_none=True) if own else {})


def prediction_jobs(training: Training, rows: Sequence[CropLabel]) -> int:
    """Into how many jobs the prediction of a crop's `rows` is cut."""
    voxels = union([row.grid for row in rows]).at(training.voxel_size).size
    limit = training.inference.job_voxels or voxels
    return max(training.inference.jobs, math.ceil(voxels / limit))


def segmentation_threads(row: CropLabel) -> int:
    """Processes that make a label side by side: more for larger crops, which are cut in blocks."""
    return max(1, min(4, row.grid.size // THREAD_VOXELS))
