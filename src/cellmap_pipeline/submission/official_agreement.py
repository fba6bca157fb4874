"""Comparison of scores by this package's sets of rules with those by the official code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.submission import score_submission
from cellmap_pipeline.scoring.summary import PRIMARY_SCORES
from cellmap_pipeline.submission.official_scorer import Scores, score_officially

# Relative and absolute.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Difference:
    """A score as computed twice; NaN where it is missing.

    Attributes
    ----------
    name
        Class, or name of an overall score.
    ours, official
        Scores of this package and of the toolbox.
    """

    name: str
    ours: float
    official: float

    @property
    def is_equal(self) -> bool:
        """Whether both are equal within `TOLERANCE`."""
        return math.isclose(self.ours, self.official, rel_tol=TOLERANCE, abs_tol=TOLERANCE)

    @property
    def size(self) -> float:
        """Absolute difference; infinite if a score is missing."""
        size = abs(self.ours - self.official)
        return math.inf if math.isnan(size) else size

    def __str__(self) -> str:
        ours, official = (
            "no score" if math.isnan(score) else f"{score:.9g}"
            for score in (self.ours, self.official)
        )
        return f"{self.name} has {ours} here and {official} in the toolbox"


def compare_officially(
    path: str | Path,
    truth: str | Path,
    manifest: Sequence[CropLabel],
    scores: Scores,
    workers: int = 1,
    memory_gb: float | None = None,
) -> tuple[bool, str]:
    """Compare the scores by each finished set of rules with those of the official toolbox.

    It raises as `score_officially` and `score_submission`.

    Parameters
    ----------
    path, truth, manifest
        As for `score_officially`.
    scores
        Scores by the requested rules, a result of `score_submission`.
    workers, memory_gb
        As for `score_officially`.

    Returns
    -------
    Whether the requested rules agree, and a message that names the rules that agree.
    """
    official = score_officially(path, truth, manifest, workers, memory_gb)
    requested = scores["rules"]
    ours = {requested: scores}
    for name, rules in RULES.items():
        if name != requested and rules.in_force:
            ours[name] = score_submission(
                path, truth, manifest, workers=workers, memory_gb=memory_gb, rules=name
            )
    found = {name: largest_difference(ours[name], official) for name in sorted(ours)}
    return found[requested] is None, _message(found, requested)


def largest_difference(ours: Scores, official: Scores) -> Difference | None:
    """Find the class, or if all agree the overall score, that differs most; None if none does."""
    overall = {name: value for name, value in official.items() if name.startswith("overall_")}
    for mine, theirs in (
        (_class_scores(ours), _class_scores(official)),
        ({name: ours[name] for name in overall if name in ours}, overall),
    ):
        pairs = [
            Difference(name, mine.get(name, math.nan), theirs.get(name, math.nan))
            for name in sorted(mine | theirs)
        ]
        differing = [pair for pair in pairs if not pair.is_equal]
        if differing:
            return max(differing, key=lambda pair: pair.size)
    return None


def _class_scores(scores: Scores) -> dict[str, float]:
    found = {
        label: next((score[name] for name in PRIMARY_SCORES if name in score), None)
        for label, score in scores["label_scores"].items()
    }
    return {label: score for label, score in found.items() if score is not None}


def _message(found: Mapping[str, Difference | None], requested: str) -> str:
    agreeing = [name for name, difference in found.items() if difference is None]
    names = " and ".join(agreeing)
    if requested in agreeing:
        return f"the official toolbox agrees with the rules of {names}"
    if agreeing:
        return (
            f"the official toolbox does not agree with the rules of {requested} "
            f"({found[requested]}), but with those of {names}: give these as --rules to score as "
            "it does"
        )
    lines = [f"by the rules of {name}, {difference}" for name, difference in found.items()]
    return "\n".join(
        ["the official toolbox agrees with none of the rules: please report this", *lines]
    )
