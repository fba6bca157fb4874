"""Scores per class and overall scores, combined from those per crop and label.

Method: cellmap-segmentation-challenge, utils.eval_utils (2026-06-30): counts are pooled over
crops per class, classes averaged, and the overall score is the geometric mean of the instance and
the semantic average.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.scoring.instances import WITHOUT_COLLISIONS

MASK_SUFFIX = "_mask"

# Columns that are also given without the effect of colliding ids, if that was measured.
COLLISION_COLUMNS = ("hausdorff_norm_sum", "normalized_hausdorff_distance", "combined_score")

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


def combine(per_crop: Mapping[str, Scores]) -> Scores:
    """Combine scores per crop and label into scores per class and overall scores.

    Returns
    -------
    `label_scores`
        Per class `tp`, `fp`, `fn` and `iou`, or `f1`, `normalized_hausdorff_distance` and
        `combined_score` (the root of their product).
    `overall_instance_score`, `overall_semantic_score`, `overall_score`
        The means over classes, and the root of their product. The evaluator counts each
        `{label}_mask` of the ground truth as a semantic class that scores 0; the last two are also
        given `…_without_masks`.

    Notes
    -----
    If distances were also measured without colliding ids, the scores that depend on them are also
    given `…_without_collisions`, and the overall score `…_without_masks_or_collisions`.
    """
    pooled: dict[str, list[Scores]] = {}
    for labels in per_crop.values():
        for label, score in labels.items():
            pooled.setdefault(label, []).append(score)
    classes = {label: class_score(label, scores) for label, scores in pooled.items()}
    instances = [score for label, score in classes.items() if is_instance(label)]
    semantic = {label: s["iou"] for label, s in classes.items() if not is_instance(label)}
    instance_mean = _mean([score["combined_score"] for score in instances])
    semantic_mean = _mean(list(semantic.values()))
    unmasked_mean = _mean([s for label, s in semantic.items() if not _is_mask(label, classes)])
    result = {
        "label_scores": classes,
        "overall_instance_score": instance_mean,
        "overall_semantic_score": semantic_mean,
        "overall_score": (instance_mean * semantic_mean) ** 0.5,
        "overall_semantic_score_without_masks": unmasked_mean,
        "overall_score_without_masks": (instance_mean * unmasked_mean) ** 0.5,
    }
    key = "combined_score" + WITHOUT_COLLISIONS
    if any(key in score for score in instances):
        collision_free_mean = _mean([score[key] for score in instances])
        result |= {
            "overall_instance_score" + WITHOUT_COLLISIONS: collision_free_mean,
            "overall_score" + WITHOUT_COLLISIONS: (collision_free_mean * semantic_mean) ** 0.5,
            "overall_score_without_masks_or_collisions": (
                (collision_free_mean * unmasked_mean) ** 0.5
            ),
        }
    return result


def class_score(label: str, scores: Sequence[Scores]) -> Scores:
    """Score a class from the scores of its crops; see `combine`."""
    tp, fp, fn = (sum(score[count] for score in scores) for count in ("tp", "fp", "fn"))
    counts = {"tp": tp, "fp": fp, "fn": fn}
    if not is_instance(label):
        voxels = tp + fp + fn
        return {"iou": tp / voxels if voxels else 1.0} | counts
    n_distances = sum(score["n_hausdorff"] for score in scores)
    objects = 2 * tp + fp + fn
    no_objects = not objects and not n_distances
    f1 = 1.0 if no_objects else (2 * tp / objects if objects else 0.0)
    result = {"f1": f1}
    collision_free = [score.get("hausdorff_norm_sum" + WITHOUT_COLLISIONS) for score in scores]
    for suffix, sums in (
        ("", [score["hausdorff_norm_sum"] for score in scores]),
        (WITHOUT_COLLISIONS, [] if None in collision_free else collision_free),
    ):
        if sums:
            distance = sum(sums) / n_distances if n_distances else float(no_objects)
            result["normalized_hausdorff_distance" + suffix] = distance
            result["combined_score" + suffix] = (f1 * distance) ** 0.5
    return result | counts


def primary_score(score: Mapping[str, Any]) -> float:
    """Return the official score of a class, `iou` or `combined_score`."""
    return score["iou"] if "iou" in score else score["combined_score"]


def overall_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Select the overall scores."""
    return {name: value for name, value in scores.items() if name.startswith("overall_")}


def write_csv(scores: Scores, path: str | Path) -> None:
    """Write scores as CSV: a row per crop and label, per class (crop `all`), and overall."""
    rows: list[Scores] = []
    for crop, labels in scores.items():
        if crop.startswith("crop"):
            for label, score in labels.items():
                row = score | class_score(label, [score])
                rows.append({"crop": crop, "label": label} | row | {"score": primary_score(row)})
    for label, score in scores["label_scores"].items():
        rows.append({"crop": "all", "label": label, "score": primary_score(score)} | score)
    for name, value in overall_scores(scores).items():
        rows.append({"crop": "all", "label": name, "score": value})
    optional = [name + WITHOUT_COLLISIONS for name in COLLISION_COLUMNS]
    columns = CSV_COLUMNS + [name for name in optional if any(name in row for row in rows)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _is_mask(label: str, classes: Scores) -> bool:
    return label.endswith(MASK_SUFFIX) and label.removesuffix(MASK_SUFFIX) in classes


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
