"""Scores of a submission as the CellMap challenge's official evaluator computes them.

Method: cellmap-segmentation-challenge, utils.eval_utils (2026-06-30): counts are pooled over
crops per class, classes averaged, and the overall score is the geometric mean of the instance and
the semantic average.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.alignment import align
from cellmap_pipeline.archive import DECODE_ERRORS, Archive
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel, read_manifest
from cellmap_pipeline.scoring_instances import score_instance

__all__ = [
    "combine",
    "score_instance",
    "score_label",
    "score_semantic",
    "score_submission",
    "write_csv",
]

MASK_SUFFIX = "_mask"
# Attribute names that the evaluator takes, in its order.
VOXEL_SIZE_NAMES = ("voxel_size", "resolution", "scale")
TRANSLATION_NAMES = ("translation", "offset")

CSV_COLUMNS = [
    "crop",
    "label",
    "status",
    "score",
    "iou",
    "f1",
    "normalized_hausdorff_distance",
    "combined_score",
    "tp",
    "fp",
    "fn",
    "hausdorff_norm_sum",
    "n_hausdorff",
    "num_voxels",
]

Scores = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One label of one crop that is to be scored.

    Parameters
    ----------
    crop, label : names in the truth.
    submitted_as : name of the crop in the submission; None where the label is missing there.
    grid : of the label in the manifest; None takes it from the truth's attributes.
    """

    crop: str
    label: str
    submitted_as: str | None
    grid: Grid | None


def score_semantic(pred: NDArray[Any], truth: NDArray[Any]) -> Scores:
    """Voxel counts of one predicted label against the truth.

    Parameters
    ----------
    pred, truth : (z, y, x); voxels above 0 are inside.

    Returns
    -------
    `tp`, `fp`, `fn` : voxels; `status` : `scored`.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if pred.shape != truth.shape:
        raise ValueError(f"prediction {pred.shape} and truth {truth.shape} differ in shape")
    inside, wanted = pred > 0, truth > 0
    tp = int(np.count_nonzero(inside & wanted))
    fp = int(np.count_nonzero(inside)) - tp
    fn = int(np.count_nonzero(wanted)) - tp
    return {"tp": tp, "fp": fp, "fn": fn, "status": "scored"}


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
    crop, label = task.crop, task.label
    where = f"{crop}/{label}"
    target = task.grid or _own_grid(truth, crop, label)
    true = truth.read(crop, label)
    if true.shape != target.shape:
        raise InputError(
            f"{truth.path}: {where} has the shape {list(true.shape)} but the manifest says "
            f"{list(target.shape)}: use the manifest that belongs to the truth"
        )
    common = {"num_voxels": true.size, "voxel_size": list(target.voxel_size)}
    if task.submitted_as is None:
        return _missing(true, label) | common | {"is_missing": True}
    pred = _placed(submission, task.submitted_as, label, target)
    if label + MASK_SUFFIX in truth.labels[crop]:
        mask = truth.read(crop, label + MASK_SUFFIX)
        if mask.shape != true.shape:
            raise InputError(f"{truth.path}: {where}{MASK_SUFFIX} differs in shape from {where}")
        pred, true = pred * mask, true * mask
    try:
        if is_instance(label):
            score = score_instance(pred, true, target.voxel_size)
        else:
            score = score_semantic(pred, true)
    except ValueError as error:
        raise InputError(f"{truth.path}: {where} cannot be scored: {error}") from None
    return score | common | {"is_missing": False}


def score_submission(
    submission: str | Path,
    truth: str | Path,
    manifest: Sequence[CropLabel] | str | Path,
    workers: int = 1,
) -> Scores:
    """All scores of a submission: per crop and label, per class, and overall.

    Parameters
    ----------
    submission : zip, or folder with its contents; a zip is read as it is, not unpacked.
    truth : folder (zarr 2) with `crop{id}/{label}`. What it holds is what is scored.
    manifest : grids of the labels, or the path of the test-crop manifest.
    workers : processes that score labels side by side.

    Returns
    -------
    `crop{id}` -> label -> what `score_label` returns; what `combine` returns; `total_evals` rows
    in the manifest and `num_evals_done` labels scored.

    Raises
    ------
    InputError
        The submission or the truth cannot be read, or they have no crop in common.
    """
    rows = read_manifest(manifest) if isinstance(manifest, str | Path) else manifest
    tasks = _tasks(Archive.open(submission), Archive.open(truth), rows)
    per_crop: dict[str, Scores] = {}
    for task, score in _run(Path(submission), Path(truth), tasks, workers):
        per_crop.setdefault(task.crop, {})[task.label] = score
    ordered = {crop: dict(sorted(per_crop[crop].items())) for crop in sorted(per_crop)}
    done = {"total_evals": len(rows), "num_evals_done": len(tasks)}
    return ordered | combine(ordered) | done


def combine(per_crop: dict[str, Scores]) -> Scores:
    """Scores per class and overall from those per crop and label.

    Returns
    -------
    `label_scores` : per class `tp`, `fp`, `fn` and `iou`, or `f1`,
        `normalized_hausdorff_distance` and `combined_score` (the root of their product).
    `overall_instance_score`, `overall_semantic_score`, `overall_score` : the means over classes,
        and the root of their product. The evaluator counts each `{label}_mask` of the truth as a
        semantic class that scores 0; the last two are also given `…_without_masks`.
    """
    pooled: dict[str, list[Scores]] = {}
    for labels in per_crop.values():
        for label, score in labels.items():
            pooled.setdefault(label, []).append(score)
    classes = {label: _class_score(label, scores) for label, scores in pooled.items()}
    instance = _mean([s["combined_score"] for label, s in classes.items() if is_instance(label)])
    semantic = {label: s["iou"] for label, s in classes.items() if not is_instance(label)}
    official = _mean(list(semantic.values()))
    unmasked = _mean([s for label, s in semantic.items() if not _is_mask(label, classes)])
    return {
        "label_scores": classes,
        "overall_instance_score": instance,
        "overall_semantic_score": official,
        "overall_score": (instance * official) ** 0.5,
        "overall_semantic_score_without_masks": unmasked,
        "overall_score_without_masks": (instance * unmasked) ** 0.5,
    }


def write_csv(scores: Scores, path: str | Path) -> None:
    """Write scores as a table: a row per crop and label, per class (crop `all`), and overall."""
    rows = []
    for crop, labels in scores.items():
        if crop.startswith("crop"):
            for label, score in labels.items():
                row = score | _class_score(label, [score])
                rows.append({"crop": crop, "label": label} | row | {"score": _headline(row)})
    for label, score in scores["label_scores"].items():
        rows.append({"crop": "all", "label": label, "score": _headline(score)} | score)
    for name, value in scores.items():
        if name.startswith("overall_"):
            rows.append({"crop": "all", "label": name, "score": value})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _tasks(submission: Archive, truth: Archive, rows: Sequence[CropLabel]) -> list[Task]:
    """What is to be scored, large labels first."""
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
            tasks.append(Task(crop, label, name if there else None, grids.get((crop, label))))
    return sorted(tasks, key=lambda task: -task.grid.size if task.grid else 0)


# A worker's own open archives: file handles must not be shared between processes.
_opened: list[Archive] = []


def _open_archives(submission: Path, truth: Path) -> None:
    _opened[:] = [Archive.open(submission), Archive.open(truth)]


def _score_task(task: Task) -> Scores:
    submission, truth = _opened
    return score_label(submission, truth, task)


def _run(
    submission: Path, truth: Path, tasks: list[Task], workers: int
) -> Iterator[tuple[Task, Scores]]:
    scores: Iterator[Scores]
    if workers == 1:
        opened = Archive.open(submission), Archive.open(truth)
        scores = (score_label(*opened, task) for task in tasks)
        yield from zip(tasks, _with_bar(scores, len(tasks)), strict=True)
        return
    with ProcessPoolExecutor(
        workers, initializer=_open_archives, initargs=(submission, truth)
    ) as pool:
        scores = pool.map(_score_task, tasks)
        yield from zip(tasks, _with_bar(scores, len(tasks)), strict=True)


def _with_bar(scores: Iterator[Scores], total: int) -> Iterator[Scores]:
    # disable=None: no bar where nobody looks at a terminal.
    yield from tqdm(scores, desc="Scoring", unit="label", total=total, disable=None)


def _placed(submission: Archive, crop: str, label: str, target: Grid) -> NDArray[Any]:
    """The submitted voxels on the crop's grid."""
    array = submission.array(crop, label)
    try:
        attributes = array.attrs.asdict()
        voxel_size = _vector(attributes, VOXEL_SIZE_NAMES)
        translation = _vector(attributes, TRANSLATION_NAMES)
        return align(array, voxel_size, translation, target, is_instance(label))
    except DECODE_ERRORS as error:
        raise InputError(f"{submission.path}: {crop}/{label} cannot be read: {error}") from None


def _own_grid(truth: Archive, crop: str, label: str) -> Grid:
    """Grid of a truth array by its own attributes."""
    array = truth.array(crop, label)
    attributes = array.attrs.asdict()
    try:
        return Grid(attributes["voxel_size"], attributes["translation"], array.shape)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{truth.path}: {crop}/{label} is not in the manifest, and its attributes voxel_size "
            f"and translation do not give its grid ({type(error).__name__}: {error})"
        ) from None


def _vector(attributes: dict[str, Any], names: Sequence[str]) -> tuple[float, ...] | None:
    for name in names:
        if name in attributes:
            return tuple(float(v) for v in attributes[name])
    return None


def _missing(truth: NDArray[Any], label: str) -> Scores:
    if not is_instance(label):
        return {"tp": 0, "fp": 0, "fn": truth.size, "status": "missing"}
    n = int(np.count_nonzero(fastremap.unique(truth)))
    counts = {"tp": 0, "fp": 0, "fn": n, "hausdorff_norm_sum": 0.0, "n_hausdorff": n}
    return counts | {"status": "missing"}


def _class_score(label: str, scores: Sequence[Scores]) -> Scores:
    tp, fp, fn = (sum(score[count] for score in scores) for count in ("tp", "fp", "fn"))
    counts = {"tp": tp, "fp": fp, "fn": fn}
    if not is_instance(label):
        voxels = tp + fp + fn
        return {"iou": tp / voxels if voxels else 1.0} | counts
    distances = sum(score["n_hausdorff"] for score in scores)
    objects = 2 * tp + fp + fn
    if not objects and not distances:
        f1 = hausdorff = 1.0
    else:
        f1 = 2 * tp / objects if objects else 0.0
        total = sum(score["hausdorff_norm_sum"] for score in scores)
        hausdorff = total / distances if distances else 0.0
    return {
        "f1": f1,
        "normalized_hausdorff_distance": hausdorff,
        "combined_score": (f1 * hausdorff) ** 0.5,
    } | counts


def _headline(score: Scores) -> float:
    return score["iou"] if "iou" in score else score["combined_score"]


def _is_mask(label: str, classes: Scores) -> bool:
    return label.endswith(MASK_SUFFIX) and label.removesuffix(MASK_SUFFIX) in classes


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
