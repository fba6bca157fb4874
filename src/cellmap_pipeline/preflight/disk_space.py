"""Disk space that a run needs, compared with the free space.

Compression ratios are unknown beforehand: the uncompressed size is an upper bound, and a small
fraction of it is a lower bound. User quotas are not considered.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.preflight.estimates.prediction_cost import prediction_cost

# Compressed over uncompressed size of even the emptiest predictions and labels.
MIN_COMPRESSED_FRACTION = 1 / 1000
BYTES_PER_WEIGHT = 4
# Number of values that an optimizer keeps for each weight.
OPTIMIZER_MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1}
# Label ids have the smallest type that holds them.
SEMANTIC_BYTES_PER_VOXEL, INSTANCE_BYTES_PER_VOXEL = 1, 4


@dataclass(frozen=True)
class DiskNeed:
    """Disk space that a kind of result needs.

    Attributes
    ----------
    kind
        Name of the kind of result.
    folder
        Folder that the result is written to.
    min_bytes, max_bytes
        Bounds of its size.
    """

    kind: str
    folder: str
    min_bytes: int
    max_bytes: int


def predictions_need(training: Training, rows: Sequence[CropLabel], folder: Path) -> DiskNeed:
    """Return the space of the predictions of one crop, in `folder`."""
    stored = prediction_cost(training, rows).stored_bytes
    return DiskNeed("predictions", str(folder), round(MIN_COMPRESSED_FRACTION * stored), stored)


def pseudo_labels_need(crops: Sequence[Sequence[CropLabel]], folder: Path) -> DiskNeed:
    """Return the space of a network's pseudo-labels, and of the predictions that they are made of.

    `crops` has the rows that are predicted around each crop.
    """
    stored = 2 * sum(row.grid.size for rows in crops for row in rows)
    return DiskNeed("pseudo-labels", str(folder), round(MIN_COMPRESSED_FRACTION * stored), stored)


def labels_needs(rows: Sequence[CropLabel], folder: Path) -> list[DiskNeed]:
    """Return the space of the final labels below `folder` and of the submission.

    The submission contains the same chunks as the labels.
    """
    upper = sum(
        row.grid.size
        * (INSTANCE_BYTES_PER_VOXEL if is_instance(row.label) else SEMANTIC_BYTES_PER_VOXEL)
        for row in rows
    )
    lower = round(MIN_COMPRESSED_FRACTION * upper)
    return [
        DiskNeed("labels", str(folder), lower, upper),
        DiskNeed("submission.zip", ".", lower, upper),
    ]


def checkpoints_need(training: Training, weights: int, folder: Path) -> DiskNeed:
    """Return the space of the checkpoints of a training and of the exported one."""
    exported = BYTES_PER_WEIGHT * weights
    moments = OPTIMIZER_MOMENTS[training.optimizer]
    resumable = exported * (1 + moments + (training.ema is not None))
    # A new checkpoint exists beside the previous one until it replaces it.
    return DiskNeed(
        "checkpoints",
        str(folder),
        2 * resumable + exported,
        (training.save_top_k + 2) * resumable + exported,
    )


def check_space(needs: Sequence[DiskNeed]) -> tuple[list[str], list[str], list[str]]:
    """Compare the needed with the free space of each disk.

    Returns
    -------
    Problems, warnings, and a line of text about each disk.
    """
    disks: dict[int, list[tuple[DiskNeed, Path]]] = defaultdict(list)
    for need in needs:
        path = Path(need.folder).absolute()
        existing = next(folder for folder in (path, *path.parents) if folder.is_dir())
        disks[os.stat(existing).st_dev].append((need, existing))
    problems, warnings, lines = [], [], []
    for on_disk in disks.values():
        folder = on_disk[0][1]
        free = shutil.disk_usage(folder).free
        lower = sum(need.min_bytes for need, _ in on_disk)
        upper = sum(need.max_bytes for need, _ in on_disk)
        upper_by_kind: dict[str, int] = defaultdict(int)
        for need, _ in on_disk:
            upper_by_kind[need.kind] += need.max_bytes
        kinds = ", ".join(f"{kind} {_size(upper_by_kind[kind])}" for kind in sorted(upper_by_kind))
        text = f"disk of {folder}: {_size(free)} are free"
        lines.append(f"{text}, at most {_size(upper)} are needed ({kinds})")
        if lower > free:
            problems.append(
                f"{text}, but the run writes at least {_size(lower)} and at most {_size(upper)} "
                f"({kinds}): make room, set `output` to another disk, lower `save_top_k`, or name "
                "fewer trainings, `submission.crops` or `classes`"
            )
        elif upper > free:
            warnings.append(
                f"{text}, and the run writes up to {_size(upper)} ({kinds}) before compression, "
                "usually far less: keep an eye on it"
            )
    return problems, warnings, lines


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
