"""Scores of a submission as the CellMap challenge's official evaluator computes them.

Method: cellmap-segmentation-challenge, utils.eval_utils (2026-06-30).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, shape_of
from cellmap_pipeline.run.pools import run_bounded
from cellmap_pipeline.scoring.alignment import aligned_view, submitted_grid, will_resample
from cellmap_pipeline.scoring.archive import Archive, StoredArray
from cellmap_pipeline.scoring.instances import score_instance
from cellmap_pipeline.scoring.objects import count_ids
from cellmap_pipeline.scoring.rules.base import Counts, Rules
from cellmap_pipeline.scoring.rules.registry import NEWEST_RULES, rules_named
from cellmap_pipeline.scoring.semantic import score_semantic
from cellmap_pipeline.scoring.slabs import SLAB_VOXELS, ArrayLike, MaskedView
from cellmap_pipeline.scoring.summary import (
    MASK_SUFFIX,
    WITHOUT_COLLISIONS,
    Scores,
    combine,
    is_skipped,
)

# Memory per voxel of a slab, of an instance label, and of a resampled label, as measured by
# benchmarks/scoring.py and rounded up.
BYTES_PER_SLAB_VOXEL = 40
BYTES_PER_INSTANCE_VOXEL = 6
BYTES_PER_RESAMPLED_VOXEL = 24
MAX_LISTED_GROUPS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringTask:
    """One label of one crop to score.

    Attributes
    ----------
    crop, label
        Names in the ground truth.
    submitted_crop
        Name of the crop in the submission; None if the label is missing from it.
    grid
        Grid of the label in the manifest; None takes it from the ground truth's attributes.
    rules
        The evaluator's rules.
    without_collisions
        As for `score_instance`.
    """

    crop: str
    label: str
    submitted_crop: str | None
    grid: Grid | None
    rules: Rules
    without_collisions: bool = False


def score_label(submission: Archive, truth: Archive, task: ScoringTask) -> Scores:
    """Score one label of one crop.

    A label that was not submitted counts all its instances as missed, with a score of 0, or all
    voxels of the crop. If the ground truth has `{label}_mask`, voxels outside it are ignored.

    Returns
    -------
    Result of `score_instance` or `score_semantic`, with `num_voxels`, `voxel_size` and
    `is_missing`.

    Raises
    ------
    InputError
        An array is broken or does not lie on the expected grid.
    """
    stored = truth.array(task.crop, task.label)
    target = task.grid or _grid_of(stored)
    common = {"num_voxels": target.size, "voxel_size": list(target.voxel_size)}
    if task.submitted_crop is None:
        _check_shape(stored, target)
        own = {"voxel_size": stored.attributes.get("voxel_size", common["voxel_size"])}
        return _missing_scores(stored, task) | common | own | {"is_missing": True}
    pred, true = aligned_pair(submission, truth, task.submitted_crop, task.crop, task.label, target)
    try:
        if is_instance(task.label):
            score = score_instance(
                pred, true, target.voxel_size, task.rules, task.without_collisions
            )
        else:
            score = score_semantic(pred, true, task.rules)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"{task.crop}/{task.label} cannot be scored: {error}") from None
    return score | common | {"is_missing": False}


def aligned_pair(
    submission: Archive, truth: Archive, submitted_crop: str, crop: str, label: str, target: Grid
) -> tuple[ArrayLike, ArrayLike]:
    """Align a submitted label with its ground truth for comparison: on one grid, and masked.

    Parameters
    ----------
    submitted_crop
        Name of the crop in the submission.
    crop, label
        Names in the ground truth.
    target
        Grid of the label in the manifest.

    Returns
    -------
    Prediction and ground truth.

    Raises
    ------
    InputError
        The evaluator would stop at the array, or the ground truth does not lie on the grid.
    """
    stored = truth.array(crop, label)
    _check_shape(stored, target)
    pred = place_array(submission.array(submitted_crop, label), target, is_instance(label))
    if label + MASK_SUFFIX not in truth.labels[crop]:
        return pred, stored
    mask = truth.array(crop, label + MASK_SUFFIX)
    if mask.shape != stored.shape:
        raise InputError(f"{mask.name} differs in shape from {crop}/{label}")
    return MaskedView(pred, mask), MaskedView(stored, mask)


def place_array(array: StoredArray, target: Grid, instance: bool) -> ArrayLike:
    """Place a submitted label on the crop's grid as the evaluator does.

    Raises
    ------
    InputError
        The evaluator would stop at the array or at its attributes.
    """
    try:
        array.check_chunks(target)
        voxel_size, translation = submitted_grid(array.attributes)
        return aligned_view(array, voxel_size, translation, target, instance)
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
    rules: str = NEWEST_RULES,
) -> Scores:
    """Compute all scores of a submission: per crop and label, per class, and overall.

    Parameters
    ----------
    submission
        Zip, or folder with its contents; a zip is read without unpacking it.
    truth
        Folder (zarr 2) with `crop{id}/{label}`; all of its labels are scored.
    rows
        Rows of the manifest, with the grids of the labels.
    workers
        Number of processes that score labels in parallel.
    memory_gb
        Memory for all processes together, in GiB; by default half of the machine's. A label that
        takes more is scored alone.
    without_collisions
        Also give the scores without the effect of colliding ids, if the rules let ids collide.
    rules
        Name of the evaluator's rules.

    Returns
    -------
    `crop{id}` -> label -> result of `score_label`; the result of `combine`; `total_evals` rows in
    the manifest and `num_evals_done` labels scored.

    Raises
    ------
    InputError
        The rules are not known, the submission or the ground truth cannot be read, they have no
        crop in common, or the ground truth has no label.
    """
    chosen = rules_named(rules)
    _worker_archives.clear()
    _open_archives(submission, truth)
    (archives,) = _worker_archives.values()
    archives[0].verify(rows)
    tasks = [
        replace(task, without_collisions=without_collisions)
        for task in _scoring_tasks(*archives, rows, chosen)
    ]
    per_crop: dict[str, Scores] = {}
    for task, score in run_bounded(
        _score_task,
        tasks,
        task_bytes=[_needed_bytes(*archives, task) for task in tasks],
        memory_bytes=int(memory_gb * 2**30) if memory_gb else None,
        workers=workers,
        initializer=_open_archives,
        initargs=(submission, truth),
        description="Scoring",
    ):
        per_crop.setdefault(task.crop, {})[task.label] = score
    _worker_archives.clear()
    _warn_of_skipped_crops(per_crop, chosen)
    ordered = {crop: dict(sorted(per_crop[crop].items())) for crop in sorted(per_crop)}
    progress = {"total_evals": len(rows), "num_evals_done": len(tasks)}
    return ordered | combine(ordered, chosen) | progress


def _scoring_tasks(
    submission: Archive, truth: Archive, rows: Sequence[CropLabel], rules: Rules
) -> list[ScoringTask]:
    submitted_crops = {crop: crop for crop in submission.labels if crop in truth.labels}
    if not submitted_crops:
        # The evaluator also accepts crops named by their number alone.
        submitted_crops = {f"crop{n}": n for n in submission.labels if f"crop{n}" in truth.labels}
    if not submitted_crops:
        raise InputError(
            f"{submission.path} has no crop in common with {truth.path}: it holds "
            f"{', '.join(submission.labels) or 'none'}; name them crop{{id}} as in the manifest"
        )
    grids = {(f"crop{row.crop}", row.label): row.grid for row in rows}
    grids |= {(crop, label + MASK_SUFFIX): grid for (crop, label), grid in grids.items()}
    tasks: list[ScoringTask] = []
    for crop, labels in truth.labels.items():
        submitted_crop = submitted_crops.get(crop)
        for label in labels:
            _check_chunks(truth, crop, label)
            grid = grids.get((crop, label))
            if submitted_crop is not None and label in submission.labels[submitted_crop]:
                name = submitted_crop
                _check_chunks(submission, name, label)
            else:
                name = None
            tasks.append(ScoringTask(crop, label, name, grid, rules))
    groups = [f"{crop}/{label}" for crop, label in grids if truth.is_group(crop, label)]
    listed = ", ".join(groups[:MAX_LISTED_GROUPS])
    if not tasks:
        found = f"{listed} are groups" if groups else "its crops hold none"
        raise InputError(
            f"{truth.path} has no zarr 2 array crop{{id}}/{{label}} to score by ({found}): put the "
            "array of the finest level, s0, in the place of each label"
        )
    if groups:
        log.warning(
            "%s: %d labels are groups, not arrays, and are not scored, as by the evaluator: %s",
            truth.path, len(groups), listed,
        )  # fmt: skip
    return tasks


def _warn_of_skipped_crops(per_crop: Mapping[str, Scores], rules: Rules) -> None:
    for label in sorted({label for scores in per_crop.values() for label in scores}):
        of_label = {crop: scores[label] for crop, scores in per_crop.items() if label in scores}
        skipped = [crop for crop, score in of_label.items() if is_skipped(score, rules)]
        if not skipped:
            continue
        reasons = sorted({of_label[crop]["status"].replace("_", " ") for crop in skipped})
        log.warning(
            "%s: %s counts for nothing (%s)%s",
            label, ", ".join(sorted(skipped)), ", ".join(reasons),
            "; the class scores 1 without any other crop, as by the evaluator"
            if len(skipped) == len(of_label)
            else "",
        )  # fmt: skip


def _check_chunks(archive: Archive, crop: str, label: str) -> None:
    """Say that a label has no chunks; refuse one whose chunks would be read as missing."""
    if not archive.has_chunks(crop, label):
        log.warning("%s: %s/%s has no chunks and is scored as empty", archive.path, crop, label)


def _needed_bytes(submission: Archive, truth: Archive, task: ScoringTask) -> int:
    voxels = math.prod(truth.array(task.crop, task.label).shape)
    needed = BYTES_PER_SLAB_VOXEL * min(voxels, SLAB_VOXELS)
    if task.submitted_crop is None:
        return needed
    if is_instance(task.label):
        needed += BYTES_PER_INSTANCE_VOXEL * voxels
    array = submission.array(task.submitted_crop, task.label)
    if task.grid and will_resample(array.shape, array.attributes, task.grid):
        needed += BYTES_PER_RESAMPLED_VOXEL * max(voxels, math.prod(array.shape))
    return needed


# Open archives of this process; forked processes inherit them.
_worker_archives: dict[tuple[str | Path, str | Path], tuple[Archive, Archive]] = {}


def _open_archives(submission: str | Path, truth: str | Path) -> None:
    if (submission, truth) not in _worker_archives:
        _worker_archives.clear()
        _worker_archives[submission, truth] = Archive.open(submission), Archive.open(truth)


def _score_task(task: ScoringTask) -> Scores:
    ((submission, truth),) = _worker_archives.values()
    return score_label(submission, truth, task)


def _check_shape(truth: StoredArray, target: Grid) -> None:
    if truth.shape != target.shape:
        raise InputError(
            f"{truth.name} has the shape {list(truth.shape)} but the manifest says "
            f"{list(target.shape)}: use the manifest that belongs to the ground truth"
        )
    truth.check_chunks(target)


def _grid_of(array: StoredArray) -> Grid:
    """Grid of a ground-truth array by its attributes."""
    try:
        voxel_size, translation = array.attributes["voxel_size"], array.attributes["translation"]
        return Grid(voxel_size, translation, shape_of(array.shape))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{array.name} is not in the manifest, and its attributes voxel_size and translation "
            f"do not give its grid ({type(error).__name__}: {error})"
        ) from None


def _missing_scores(truth: ArrayLike, task: ScoringTask) -> Scores:
    rules = task.rules
    if not is_instance(task.label):
        missed = rules.count_voxels(0, 0, math.prod(truth.shape))
        return rules.voxel_fields(missed) | {"status": "missing"}
    score = rules.object_fields(Counts(fn=count_ids(truth))) | {"status": "missing"}
    if task.without_collisions and rules.without_collisions:
        score[rules.object_sum + WITHOUT_COLLISIONS] = 0.0
    return score
