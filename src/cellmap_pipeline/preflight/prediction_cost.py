"""What the prediction of each crop takes: windows, time, disk and memory, before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cellmap_pipeline.channels import class_of
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import union
from cellmap_pipeline.plan.resources import prediction_jobs

# A crop of which the network sees more voxels than this times those of its finest label is a
# mistake rather than a wish: four times finer along each axis.
ABSURD = 64


@dataclass(frozen=True)
class Prediction:
    """Of one crop by one training.

    Attributes
    ----------
    crop, labels
        The crop's number, and how many of its labels are predicted.
    voxels
        Of the crop at the network's voxel size.
    windows
        Of the network over it and the context around it, symmetries not counted.
    passes
        Of the network: windows times symmetries times averaged checkpoints.
    stored
        Bytes of all channels on their labels' grids, before compression.
    layer : bytes that the sums of one layer of windows take; more than
        `prediction.MEMORY` waits in scratch files.
    jobs
        That it is cut into.
    finer
        `voxels` over those of its finest label.
    """

    crop: int
    labels: int
    voxels: int
    windows: int
    passes: int
    stored: int
    layer: int
    jobs: int
    finer: float


def outlook_of(training: Training, rows: Sequence[CropLabel]) -> Prediction:
    """What predicting the `rows` of one crop takes; raw is taken to be there all around."""
    inference = training.inference
    window = inference.window or training.patch_size
    grid = union([row.grid for row in rows]).at(training.voxel_size)
    region = [
        max(w, n + 2 * int(w * inference.overlap / 2))
        for n, w in zip(grid.shape, window, strict=True)
    ]
    windows = math.prod(
        math.ceil((n - w) / max(1, int(w * (1 - inference.overlap)))) + 1
        for n, w in zip(region, window, strict=True)
    )
    channels = {
        channel: row.grid.size
        for row in rows
        for channel in training.channels
        if class_of(channel) == row.label
    }
    return Prediction(
        crop=rows[0].crop,
        labels=len(rows),
        voxels=grid.size,
        windows=windows,
        passes=windows * inference.symmetries * inference.checkpoints,
        stored=sum(channels.values()),
        layer=2 * len(channels) * window[0] * region[1] * region[2],
        jobs=prediction_jobs(training, rows),
        finer=grid.size / max(row.grid.size for row in rows),
    )


def describe(prediction: Prediction, seconds_per_pass: float | None = None) -> str:
    """One line of text; with a time where one is known for a pass."""
    time = f", {duration(prediction.passes * seconds_per_pass / 3600)}" if seconds_per_pass else ""
    jobs = f" in {prediction.jobs} jobs" if prediction.jobs > 1 else ""
    return (
        f"crop {prediction.crop}: {prediction.labels} labels, {prediction.voxels / 1e6:,.1f} M "
        f"voxels, {prediction.windows:,} windows{jobs}{time}, at most "
        f"{prediction.stored / 1e6:,.0f} MB on disk, {prediction.layer / 1e6:,.0f} MB of sums"
    )


def duration(hours: float) -> str:
    """Hours in words, rounded up to a minute."""
    if hours < 1:
        return f"{math.ceil(60 * hours)} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"


def warning_of(prediction: Prediction, name: str, voxel_size: Sequence[float]) -> str | None:
    """What is wrong with predicting this crop by this training, or None."""
    if prediction.finer < ABSURD:
        return None
    size = " × ".join(f"{v:g}" for v in voxel_size)
    return (
        f"warning: at {size} nm crop {prediction.crop} has {prediction.finer:,.0f} times the "
        f"voxels of its finest label: set `serves` in {name}.yaml to the voxel sizes it is for"
    )
