"""Scores of a submission as the CellMap challenge's official evaluator computes them.

Method: cellmap-segmentation-challenge, utils.eval_utils (2026-06-30).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, shape_of
from cellmap_pipeline.run.pools import run_bounded
from cellmap_pipeline.scoring.alignment import aligned, submitted_grid, will_resample
from cellmap_pipeline.scoring.archive import Archive, Stored
from cellmap_pipeline.scoring.instances import WITHOUT_COLLISIONS, score_instance
from cellmap_pipeline.scoring.objects import count_ids
from cellmap_pipeline.scoring.semantic import score_semantic
from cellmap_pipeline.scoring.slabs import SLAB_VOXELS, Masked, Volume
from cellmap_pipeline.scoring.summary import MASK_SUFFIX, Scores, combine

# Bytes that scoring takes, as measured by benchmarks/scoring.py and rounded up: of each voxel of a
# slab, of each of an instance label, and of one that is resampled.
SLAB_BYTES = 40
INSTANCE_BYTES = 6
RESAMPLED_BYTES = 24


@dataclass(frozen=True)
class Task:
    """One label of one crop that is to be scored.

    Attributes
    ----------
    crop, label
        Names in the truth.
    submitted_as
        Name of the crop in the submission; None where the label is missing there.
    grid
        Of the label in the manifest; None takes it from the truth's attributes.
    without_collisions
        As for `score_instance`.
    """

    crop: str
    label: str
    submitted_as: str | None
    grid: Grid | None
    without_collisions: bool = False


def score_label(submission: Archive, truth: Archive, task: Task) -> Scores:
    """Score of one label of one crop.

    A label that was not submitted counts all its instances at the worst distance, or all voxels of
    the crop as missed. Where the truth has `{label}_mask`, voxels outside it count for nothing.

    Returns
    -------
    What `score_instance` or `score_semantic` returns, with `num_voxels`, `voxel_size` and
    `is_missing`.

    Raises
    ------
    InputError
        An array is broken or does not lie on the grid that it should.
    """
    stored = truth.array(task.crop, task.label)
    target = task.grid or _own_grid(stored)
    common = {"num_voxels": target.size, "voxel_size": list(target.voxel_size)}
    if task.submitted_as is None:
        _check_shape(stored, target)
        own = {"voxel_size": stored.attributes.get("voxel_size", common["voxel_size"])}
        return _missing(stored, task) | common | own | {"is_missing": True}
    pred, true = compared(submission, truth, task.submitted_as, task.crop, task.label, target)
    try:
        if is_instance(task.label):
            score = score_instance(pred, true, target.voxel_size, task.without_collisions)
        else:
            score = score_semantic(pred, true)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"{task.crop}/{task.label} cannot be scored: {error}") from None
    return score | common | {"is_missing": False}


def compared(
    submission: Archive, truth: Archive, submitted_as: str, crop: str, label: str, target: Grid
) -> tuple[Volume, Volume]:
    """A submitted label and its truth as they are compared: on one grid, and masked.

    Raises
    ------
    InputError
        The evaluator would stop at the array, or the truth does not lie on the grid.
    """
    stored = truth.array(crop, label)
    _check_shape(stored, target)
    pred = placed(submission.array(submitted_as, label), target, is_instance(label))
    if label + MASK_SUFFIX not in truth.labels[crop]:
        return pred, stored
    mask = truth.array(crop, label + MASK_SUFFIX)
    if mask.shape != stored.shape:
        raise InputError(f"{mask.name} differs in shape from {crop}/{label}")
    return Masked(pred, mask), Masked(stored, mask)


def placed(array: Stored, target: Grid, instance: bool) -> Volume:
    """A submitted label on the crop's grid, as the evaluator places it.

    Raises
    ------
    InputError
        The evaluator would stop at the array or at its attributes.
    """
    try:
        voxel_size, translation = submitted_grid(array.attributes)
        return aligned(array, voxel_size, translation, target, instance)
    except InputError:
        raise
    except (ValueError, TypeError, MemoryError) as error:
        raise InputError(f"{array.name} cannot be placed: {error}") from None


def score_submission(
    submission: str | Path,
    truth: str | Path,
    rows: Sequence[CropLabel],
    workers: int = 1,
    memory_gb: float | None = None,
    without_collisions: bool = False,
) -> Scores:
    """All scores of a submission: per crop and label, per class, and overall.

    Parameters
    ----------
    submission
        Zip, or folder with its contents; a zip is read as it is, not unpacked.
    truth
        Folder (zarr 2) with `crop{id}/{label}`. What it holds is what is scored.
    rows
        Of the manifest, with the grids of the labels.
    workers
        Processes that score labels side by side.
    memory_gb
        That all of them may take; by default half of the machine's. A label that takes more is
        scored alone.
    without_collisions
        Also give the scores without the effect of the evaluator's colliding ids.

    Returns
    -------
    `crop{id}` -> label -> what `score_label` returns; what `combine` returns; `total_evals` rows
    in the manifest and `num_evals_done` labels scored.

    Raises
    ------
    InputError
        The submission or the truth cannot be read, or they have no crop in common.
    """
    _opened.clear()
    _open(submission, truth)
    ((opened),) = _opened.values()
    tasks = _tasks(*opened, rows, without_collisions)
    needs = [_needed_bytes(*opened, task) for task in tasks]
    per_crop: dict[str, Scores] = {}
    memory = int(memory_gb * 2**30) if memory_gb else None
    for task, score in run_bounded(
        _score_task, tasks, needs, workers, memory, _open, (submission, truth), "Scoring"
    ):
        per_crop.setdefault(task.crop, {})[task.label] = score
    _opened.clear()
    ordered = {crop: dict(sorted(per_crop[crop].items())) for crop in sorted(per_crop)}
    done = {"total_evals": len(rows), "num_evals_done": len(tasks)}
    return ordered | combine(ordered) | done


def _tasks(
    submission: Archive, truth: Archive, rows: Sequence[CropLabel], without_collisions: bool
) -> list[Task]:
    submitted = {crop: crop for crop in submission.labels if crop in truth.labels}
    if not submitted:
        # The evaluator also takes crops that are named by their number alone.
        submitted = {f"crop{n}": n for n in submission.labels if f"crop{n}" in truth.labels}
    if not submitted:
        raise InputError(
            f"{submission.path} has no crop in common with {truth.path}: it holds "
            f"{', '.join(submission.labels) or 'none'}; name them crop{{id}} as in the manifest"
        )
    grids = {(f"crop{row.crop}", row.label): row.grid for row in rows}
    grids |= {(crop, label + MASK_SUFFIX): grid for (crop, label), grid in grids.items()}
    tasks: list[Task] = []
    for crop, labels in truth.labels.items():
        name = submitted.get(crop)
        for label in labels:
            there = name is not None and label in submission.labels[name]
            grid = grids.get((crop, label))
            tasks.append(Task(crop, label, name if there else None, grid, without_collisions))
    return tasks


def _needed_bytes(submission: Archive, truth: Archive, task: Task) -> int:
    voxels = math.prod(truth.array(task.crop, task.label).shape)
    need = SLAB_BYTES * min(voxels, SLAB_VOXELS)
    if task.submitted_as is None:
        return need
    if is_instance(task.label):
        need += INSTANCE_BYTES * voxels
    array = submission.array(task.submitted_as, task.label)
    if task.grid and will_resample(array.shape, array.attributes, task.grid):
        need += RESAMPLED_BYTES * max(voxels, math.prod(array.shape))
    return need


# The open archives of this process; where processes are forked, they share them.
_opened: dict[tuple[str | Path, str | Path], tuple[Archive, Archive]] = {}


def _open(submission: str | Path, truth: str | Path) -> None:
    if (submission, truth) not in _opened:
        _opened.clear()
        _opened[submission, truth] = Archive.open(submission), Archive.open(truth)


def _score_task(task: Task) -> Scores:
    ((submission, truth),) = _opened.values()
    return score_label(submission, truth, task)


def _check_shape(truth: Stored, target: Grid) -> None:
    if truth.shape != target.shape:
        raise InputError(
            f"{truth.name} has the shape {list(truth.shape)} but the manifest says "
            f"{list(target.shape)}: use the manifest that belongs to the truth"
        )


def _own_grid(array: Stored) -> Grid:
    """Grid of a truth array by its own attributes."""
    try:
        voxel_size, translation = array.attributes["voxel_size"], array.attributes["translation"]
        return Grid(voxel_size, translation, shape_of(array.shape))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{array.name} is not in the manifest, and its attributes voxel_size and translation "
            f"do not give its grid ({type(error).__name__}: {error})"
        ) from None


def _missing(truth: Volume, task: Task) -> Scores:
    if not is_instance(task.label):
        return {"tp": 0, "fp": 0, "fn": math.prod(truth.shape), "status": "missing"}
    n = count_ids(truth)
    counts = {"tp": 0, "fp": 0, "fn": n, "hausdorff_norm_sum": 0.0, "n_hausdorff": n}
    if task.without_collisions:
        counts["hausdorff_norm_sum" + WITHOUT_COLLISIONS] = 0.0
    return counts | {"status": "missing"}
