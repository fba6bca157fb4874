"""Cost of predicting each crop, before the run: windows, time, disk and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cellmap_pipeline.channels import class_of
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.geometry import union
from cellmap_pipeline.plan.resources import prediction_jobs

# A network four times finer than a crop's finest label along each axis is probably a mistake.
MAX_VOXEL_RATIO = 64


@dataclass(frozen=True)
class PredictionCost:
    """Cost of predicting one crop by one training.

    Attributes
    ----------
    crop
        Number of the crop.
    labels
        Number of its labels that are predicted.
    voxels
        Number of voxels of the crop at the network's voxel size.
    windows
        Number of windows over the crop and the context around it, without symmetries.
    passes
        Number of forward passes: windows times symmetries times averaged checkpoints.
    stored_bytes
        Size of all channels on their labels' grids, before compression.
    layer_bytes
        Size of the sums of one layer of windows; beyond `prediction.predict.MAX_SUMS_BYTES` they
        are kept in scratch files.
    jobs
        Number of jobs.
    voxel_ratio
        `voxels` over the number of voxels of the crop's finest label.
    """

    crop: int
    labels: int
    voxels: int
    windows: int
    passes: int
    stored_bytes: int
    layer_bytes: int
    jobs: int
    voxel_ratio: float


def prediction_cost(training: Training, rows: Sequence[CropLabel]) -> PredictionCost:
    """Estimate the cost of predicting the `rows` of one crop, assuming raw all around it."""
    inference = training.inference
    window = training.window
    grid = union([row.grid for row in rows]).at(training.voxel_size)
    region = [
        max(w, n + 2 * context)
        for n, w, context in zip(grid.shape, window, training.context, strict=True)
    ]
    windows = math.prod(
        math.ceil((n - w) / max(1, int(w * (1 - inference.overlap)))) + 1
        for n, w in zip(region, window, strict=True)
    )
    channels = {
        channel: row.grid.size
        for row in rows
        for channel in inference.stored_channels(training.channels)
        if class_of(channel) == row.label
    }
    return PredictionCost(
        crop=rows[0].crop,
        labels=len(rows),
        voxels=grid.size,
        windows=windows,
        passes=windows * inference.symmetries * inference.checkpoints,
        stored_bytes=sum(channels.values()),
        layer_bytes=2 * len(channels) * window[0] * region[1] * region[2],
        jobs=prediction_jobs(training, rows),
        voxel_ratio=grid.size / max(row.grid.size for row in rows),
    )


def taught_rows(
    training: Training, teacher: Training, crops: Sequence[LabeledCrop]
) -> list[list[CropLabel]]:
    """List, by training crop, what a teacher predicts of it and of the raw around it."""
    classes = [label for label in training.classes if label in teacher.classes]
    return [
        [CropLabel(crop.crop, crop.dataset, label, around) for label in classes]
        for crop in crops
        for around in [crop.grid.at(training.voxel_size).padded(training.taught_margin)]
    ]


def describe_cost(cost: PredictionCost, seconds_per_pass: float | None = None) -> str:
    """Describe a cost in one line, with its time if that of a forward pass is known."""
    time = f", {format_hours(cost.passes * seconds_per_pass / 3600)}" if seconds_per_pass else ""
    jobs = f" in {cost.jobs} jobs" if cost.jobs > 1 else ""
    return (
        f"crop {cost.crop}: {cost.labels} labels, {cost.voxels / 1e6:,.1f} M "
        f"voxels, {cost.windows:,} windows{jobs}{time}, at most "
        f"{cost.stored_bytes / 1e6:,.0f} MB on disk, {cost.layer_bytes / 1e6:,.0f} MB of sums"
    )


def format_hours(hours: float) -> str:
    """Format hours as text, rounded up to a minute."""
    if hours < 1:
        return f"{math.ceil(60 * hours)} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"


def voxel_size_warning(cost: PredictionCost, name: str, voxel_size: Sequence[float]) -> str | None:
    """Warn of a crop that training `name` predicts at far too small a voxel size (nm)."""
    if cost.voxel_ratio < MAX_VOXEL_RATIO:
        return None
    size = " × ".join(f"{v:g}" for v in voxel_size)
    return (
        f"warning: at {size} nm crop {cost.crop} has {cost.voxel_ratio:,.0f} times the voxels of "
        f"its finest label: set `serves` in {name}.yaml to the voxel sizes that it is meant for"
    )
