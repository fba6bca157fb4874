"""Comparison of all trainings in a folder of results, and of the submission.

Trainings are compared on their validation crops; the submission on test crops whose ground truth is
known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cellmap_pipeline.classes import in_class_order
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.summary import Scores, primary_score

SUBMISSION = "submission"
OVERALL_SCORES = ("overall_score", "overall_instance_score", "overall_semantic_score")


def leaderboard(
    validation_scores: Mapping[str, Path], submission_scores: Path | None
) -> pd.DataFrame:
    """Tabulate the scores of every validated training, and of the submission.

    Trainings differ in their classes and voxel sizes, and so in their validation crops: overall
    scores are comparable only between trainings with the same `classes`.

    Parameters
    ----------
    validation_scores
        By source, the path of its scores on validation crops.
    submission_scores
        Path of the submission's scores on test crops, if any.

    Returns
    -------
    One row each: `name`, `scored_on` (test, validation), `classes` (number of classes), the
    overall scores, then the score of each class. The submission comes first, then trainings,
    best first.

    Raises
    ------
    InputError
        A file is not JSON.
    """
    rows = []
    if submission_scores:
        scores = _read(submission_scores)
        classes = {label: primary_score(score) for label, score in scores["label_scores"].items()}
        rows.append(_row(SUBMISSION, "test", scores, classes))
    trainings = []
    for name, path in validation_scores.items():
        scores = _read(path)
        classes = {label: value["score"] for label, value in scores["classes"].items()}
        trainings.append(_row(name, "validation", scores, classes))
    rows += sorted(trainings, key=lambda row: -row["overall_score"])
    labels = in_class_order(sorted({label for row in rows for label in row["scores"]}))
    return pd.DataFrame(
        {key: value for key, value in row.items() if key != "scores"}
        | {label: row["scores"].get(label) for label in labels}
        for row in rows
    )


def write_leaderboard(table: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV; classes without a score are left empty."""
    table.to_csv(path, index=False, lineterminator="\n")


def _row(name: str, scored_on: str, scores: Scores, classes: dict[str, float]) -> Scores:
    row = {"name": name, "scored_on": scored_on, "classes": len(classes)}
    return row | {key: scores[key] for key in OVERALL_SCORES} | {"scores": classes}


def _read(path: Path) -> Scores:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): rerun its stage") from None
