"""Whether what a run writes fits on its disks.

How well volumes pack is not known before: what they take unpacked is an upper bound, and a small
part of it what they take surely. A user's quota is not seen.
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
from cellmap_pipeline.preflight.prediction_cost import outlook_of

# Of the voxels' bytes, what chunks of even the emptiest predictions and labels pack to.
PACKED = 1 / 1000
# Bytes of a weight, and how often the optimiser keeps something as large.
WEIGHT = 4
MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1}
# Bytes of a voxel of a label: ids are the smallest type that holds them.
SEMANTIC, INSTANCE = 1, 4


@dataclass(frozen=True)
class Need:
    """What is written to a folder, bytes."""

    what: str
    folder: str
    surely: int
    at_most: int


def of_predictions(training: Training, rows: Sequence[CropLabel], folder: Path) -> Need:
    """The predictions of one crop, in `folder`."""
    stored = outlook_of(training, rows).stored
    return Need("predictions", str(folder), round(PACKED * stored), stored)


def of_labels(rows: Sequence[CropLabel], folder: Path) -> list[Need]:
    """The final labels below `folder`, and the submission, which holds the same chunks."""
    voxels = sum(row.grid.size * (INSTANCE if is_instance(row.label) else SEMANTIC) for row in rows)
    least = round(PACKED * voxels)
    return [
        Need("labels", str(folder), least, voxels),
        Need("submission.zip", ".", least, voxels),
    ]


def of_checkpoints(training: Training, weights: int, folder: Path) -> Need:
    """The checkpoints of a training, and the one that it hands over."""
    own = WEIGHT * weights
    kept = own * (1 + MOMENTS[training.optimizer] + (training.ema is not None))
    # The newest one is replaced by one that is written beside it.
    return Need("checkpoints", str(folder), 2 * kept + own, (training.save_top_k + 2) * kept + own)


def check_space(needs: Sequence[Need]) -> tuple[list[str], list[str], list[str]]:
    """Hold what is needed against what is free, disk by disk.

    Returns
    -------
    Problems, warnings, and lines about each disk.
    """
    disks: dict[int, list[tuple[Need, Path]]] = defaultdict(list)
    for need in needs:
        path = Path(need.folder).absolute()
        there = next(folder for folder in (path, *path.parents) if folder.is_dir())
        disks[os.stat(there).st_dev].append((need, there))
    problems, warnings, lines = [], [], []
    for on_disk in disks.values():
        folder = on_disk[0][1]
        free = shutil.disk_usage(folder).free
        surely = sum(need.surely for need, _ in on_disk)
        at_most = sum(need.at_most for need, _ in on_disk)
        parts: dict[str, int] = defaultdict(int)
        for need, _ in on_disk:
            parts[need.what] += need.at_most
        named = ", ".join(f"{what} {_size(parts[what])}" for what in sorted(parts))
        text = f"disk of {folder}: {_size(free)} are free"
        lines.append(f"{text}, at most {_size(at_most)} are needed ({named})")
        if surely > free:
            problems.append(
                f"{text}, but the run writes {_size(surely)} at least and {_size(at_most)} at most "
                f"({named}): make room, set `output` to another disk, lower `save_top_k`, or name "
                "fewer trainings, `submission.crops` or `classes`"
            )
        elif at_most > free:
            warnings.append(
                f"{text}, and the run writes up to {_size(at_most)} ({named}) before volumes are "
                "packed, mostly far less: keep an eye on it"
            )
    return problems, warnings, lines


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
