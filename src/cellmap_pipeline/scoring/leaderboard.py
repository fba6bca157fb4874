"""All trainings in a folder of results side by side: on validation crops, and the submission on
test crops where their truth is known.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from cellmap_pipeline.classes import in_order
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.summary import headline

SUBMISSION = "submission"
OVERALL = ("overall_score", "overall_instance_score", "overall_semantic_score")


def leaderboard(output: Path) -> pd.DataFrame:
    """Scores of every training whose validation lies in `output`, and of the submission.

    Trainings differ in their classes and voxel sizes, and so in their validation crops: overall
    scores compare those that have the same `classes`.

    Parameters
    ----------
    output
        Folder with `{training}/validation/scores.json`, and `scores.json` of the test crops.

    Returns
    -------
    A row each: `name`, `scored_on` (test, validation), `classes` (number of them), the overall
    scores, then per class its score. The submission first, then trainings, the best first.

    Raises
    ------
    InputError
        There are no scores.
    """
    rows = []
    if (output / "scores.json").is_file():
        scores = _read(output / "scores.json")
        classes = {label: headline(score) for label, score in scores["label_scores"].items()}
        rows.append(_row(SUBMISSION, "test", scores, classes))
    trained = []
    for path in sorted(output.glob("*/validation/scores.json")):
        scores = _read(path)
        classes = {label: value["score"] for label, value in scores["classes"].items()}
        trained.append(_row(path.parents[1].name, "validation", scores, classes))
    rows += sorted(trained, key=lambda row: -row["overall_score"])
    if not rows:
        raise InputError(
            f"{output} has no scores: neither scores.json nor {{training}}/validation/scores.json; "
            "give the folder that `output` names"
        )
    labels = in_order(sorted({label for row in rows for label in row["scores"]}))
    return pd.DataFrame(
        {key: value for key, value in row.items() if key != "scores"}
        | {label: row["scores"].get(label) for label in labels}
        for row in rows
    )


def write_leaderboard(table: pd.DataFrame, path: Path) -> None:
    """Write it as CSV; a class without a score is left empty."""
    table.to_csv(path, index=False, lineterminator="\n")


def _row(name: str, on: str, scores: dict[str, Any], classes: dict[str, float]) -> dict[str, Any]:
    overall = {key: scores[key] for key in OVERALL}
    return {"name": name, "scored_on": on, "classes": len(classes)} | overall | {"scores": classes}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): let its stage run again") from None
