"""Scores per class and overall scores, combined from those per crop and label.

Method: cellmap-segmentation-challenge, utils.eval_utils (2026-06-30): counts are pooled over
crops per class; a set of rules (`scoring.rules`) scores the classes and the whole.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.scoring.rules.base import Rules, mean
from cellmap_pipeline.scoring.rules.registry import RULES, rules_named

MASK_SUFFIX = "_mask"
WITHOUT_COLLISIONS = "_without_collisions"
# The official score of a class by any rules.
PRIMARY_SCORES = {rules.measure(instance) for rules in RULES.values() for instance in (True, False)}

# A crop's label with another status counts for nothing.
COUNTED_STATUSES = ("scored", "missing")
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
    "sq",
    "rq",
    "pq",
    "tp",
    "fp",
    "fn",
    "hausdorff_norm_sum",
    "n_hausdorff",
    "sum_iou",
    "num_voxels",
    "rules",
]

Scores = dict[str, Any]


def combine(per_crop: Mapping[str, Scores], rules: Rules) -> Scores:
    """Combine scores per crop and label into scores per class and overall scores.

    Returns
    -------
    `label_scores`
        Per class `tp`, `fp`, `fn` and what `rules` make of them: `iou`; `f1`,
        `normalized_hausdorff_distance` and `combined_score` (the root of their product); or `sq`,
        `rq` and `pq`.
    `overall_instance_score`, `overall_semantic_score`, `overall_score`
        The means over classes, and what `rules` make of both. The evaluator counts each
        `{label}_mask` of the ground truth as a semantic class that scores 0; the last two are also
        given `…_without_masks`.
    `rules`
        Name of the rules.

    Notes
    -----
    If distances were also measured without colliding ids, the scores that depend on them are also
    given `…_without_collisions`, and the overall score `…_without_masks_or_collisions`.
    """
    pooled: dict[str, list[Scores]] = {}
    for labels in per_crop.values():
        for label, score in labels.items():
            pooled.setdefault(label, []).append(score)
    classes = {label: class_score(label, scores, rules) for label, scores in pooled.items()}
    measure = rules.measure(instance=True)
    instance = [score[measure] for label, score in classes.items() if is_instance(label)]
    semantic = {
        label: score[rules.measure(instance=False)]
        for label, score in classes.items()
        if not is_instance(label)
    }
    unmasked = [score for label, score in semantic.items() if not _is_mask(label, classes)]
    masked = list(semantic.values())
    result = {
        "label_scores": classes,
        "overall_instance_score": mean(instance),
        "overall_semantic_score": mean(masked),
        "overall_score": rules.overall_score(instance, masked),
        "overall_semantic_score_without_masks": mean(unmasked),
        "overall_score_without_masks": rules.overall_score(instance, unmasked),
    }
    alone = [
        score[measure + WITHOUT_COLLISIONS]
        for score in classes.values()
        if measure + WITHOUT_COLLISIONS in score
    ]
    if alone:
        result |= {
            "overall_instance_score" + WITHOUT_COLLISIONS: mean(alone),
            "overall_score" + WITHOUT_COLLISIONS: rules.overall_score(alone, masked),
            "overall_score_without_masks_or_collisions": rules.overall_score(alone, unmasked),
        }
    return result | {"rules": rules.name}


def class_score(label: str, scores: Sequence[Scores], rules: Rules) -> Scores:
    """Score a class from the scores of its crops; see `combine`."""
    instance = is_instance(label)
    result = rules.score_class(scores, instance)
    key = rules.object_sum + WITHOUT_COLLISIONS
    if instance and all(key in score for score in scores):
        alone = [score | {rules.object_sum: score[key]} for score in scores]
        measures = rules.score_class(alone, instance)
        result |= {
            name + WITHOUT_COLLISIONS: measures[name]
            for name in COLLISION_COLUMNS
            if name in measures
        }
    return result


def is_skipped(score: Mapping[str, Any], rules: Rules) -> bool:
    """Whether the evaluator leaves a crop's label out, such as for too many objects."""
    return score["status"] not in COUNTED_STATUSES and not rules.counts_skipped_crops


def primary_score(score: Mapping[str, Any]) -> float:
    """Return the official score of a class."""
    return next(score[name] for name in PRIMARY_SCORES if name in score)


def overall_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Select the overall scores."""
    return {name: value for name, value in scores.items() if name.startswith("overall_")}


def write_csv(scores: Scores, path: str | Path) -> None:
    """Write scores as CSV: a row per crop and label, per class (crop `all`), and overall.

    The scores of a crop that the evaluator skips are left empty.
    """
    rules = rules_named(scores["rules"])
    rows: list[Scores] = []
    for crop, labels in scores.items():
        if crop.startswith("crop"):
            for label, score in labels.items():
                row = {"crop": crop, "label": label} | score
                if not is_skipped(score, rules):
                    row |= class_score(label, [score], rules)
                    row["score"] = primary_score(row)
                rows.append(row)
    for label, score in scores["label_scores"].items():
        rows.append({"crop": "all", "label": label, "score": primary_score(score)} | score)
    for name, value in overall_scores(scores).items():
        rows.append({"crop": "all", "label": name, "score": value})
    rows = [row | {"rules": rules.name} for row in rows]
    every = CSV_COLUMNS + [name + WITHOUT_COLLISIONS for name in COLLISION_COLUMNS]
    columns = [name for name in every if any(name in row for row in rows)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _is_mask(label: str, classes: Scores) -> bool:
    return label.endswith(MASK_SUFFIX) and label.removesuffix(MASK_SUFFIX) in classes
