"""Comparison of all trainings in a folder of results, and of the submission.

Trainings are compared on their validation crops; the submission on test crops whose ground truth is
known.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cellmap_pipeline.classes import in_class_order
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.rules.registry import rules_named
from cellmap_pipeline.scoring.summary import Scores, primary_score

log = logging.getLogger(__name__)

SUBMISSION = "submission"
OVERALL_SCORES = ("overall_score", "overall_instance_score", "overall_semantic_score")


def leaderboard(
    validation_scores: Mapping[str, Path],
    submission_scores: Path | None,
    rules: str | None = None,
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
    rules
        Name of the evaluator's rules; scores by other rules are left out, with a warning. None
        stands for the only ones that occur.

    Returns
    -------
    One row each: `name`, `scored_on` (test, validation), `rules`, `classes` (number of classes),
    the overall scores, then the score of each class. The submission comes first, then trainings,
    best first.

    Raises
    ------
    InputError
        A file is not JSON; there are scores by several rules and none is named; or there are none
        by the rules that are named.
    """
    of_validation = {name: _read(path) for name, path in validation_scores.items()}
    of_submission = {SUBMISSION: _read(submission_scores)} if submission_scores else {}
    found = sorted({_rules(scores) for scores in (of_submission | of_validation).values()})
    rules = _chosen_rules(found, rules)
    rows = []
    for scores in _by_rules(of_submission, rules).values():
        classes = {label: primary_score(score) for label, score in scores["label_scores"].items()}
        rows.append(_row(SUBMISSION, "test", scores, classes))
    trainings = []
    for name, scores in _by_rules(of_validation, rules).items():
        classes = {label: value["score"] for label, value in scores["classes"].items()}
        trainings.append(_row(name, "validation", scores, classes))
    # Without classes of one kind, the overall score is 0.
    means = ("overall_score", "overall_instance_score", "overall_semantic_score")
    rows += sorted(trainings, key=lambda row: [-row[name] for name in means])
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
    row = {"name": name, "scored_on": scored_on, "rules": _rules(scores), "classes": len(classes)}
    return row | {key: scores[key] for key in OVERALL_SCORES} | {"scores": classes}


def _rules(scores: Scores) -> str:
    # Scores of versions that knew only one set of rules do not name it.
    return scores.get("rules", "2026-06-30")


def _chosen_rules(found: Sequence[str], named: str | None) -> str:
    if named and rules_named(named).name not in found:
        raise InputError(
            f"no scores follow the rules of {named}, only those of {' and '.join(found)}: choose "
            f"these by --rules, or rerun the workflow with `scoring: {{rules: {named}}}`"
        )
    if not named and len(found) > 1:
        raise InputError(
            f"the scores follow different rules, {' and '.join(found)}, which cannot be compared: "
            "choose one by --rules"
        )
    return named or found[0]


def _by_rules(scores: Mapping[str, Scores], rules: str) -> dict[str, Scores]:
    for name, of_source in scores.items():
        if _rules(of_source) != rules:
            log.warning(
                "%s is left out: it was scored by the rules of %s, not of %s",
                name, _rules(of_source), rules,
            )  # fmt: skip
    return {name: found for name, found in scores.items() if _rules(found) == rules}


def _read(path: Path) -> Scores:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): rerun its stage") from None
