"""Targets as the command line names them: a clear message for each that no rule can make."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from cellmap_pipeline.errors import InputError, did_you_mean
from cellmap_pipeline.plan.folds import training_of
from cellmap_pipeline.plan.paths import ResultPaths
from cellmap_pipeline.plan.plan import Plan

# Patterns below the output folder.
PATHS = ResultPaths(Path())
CROP_TARGETS = (
    PATHS.predictions(),
    PATHS.predictions() / "{label}",
    PATHS.segmentation(),
    PATHS.segmentation().parent,
    PATHS.figure("crops/{dataset}/crop{crop}.jpg"),
)
NETWORK_TARGETS = (
    PATHS.datasplit(),
    PATHS.datasplit_summary(),
    PATHS.training_raw_statistics(),
    PATHS.teacher_predictions(),
    PATHS.pseudo_labels(),
    PATHS.checkpoint(),
    PATHS.validation_predictions(),
    PATHS.figure("datasplit/{network}.png"),
    PATHS.figure("training/{network}.png"),
)
SOURCE_TARGETS = (
    PATHS.validation_scores(),
    PATHS.tuned_settings(),
    PATHS.figure("validation/{source}.png"),
)
# Results that need the ground truth of the test crops.
SCORE_TARGETS = ("score", "scores.json", "scores.csv", "figures/scores.png", "figures/cases.jpg")


def check_target(plan: Plan, target: str) -> None:
    """Check that a target that belongs to a crop, a training or the ground truth can be made.

    Parameters
    ----------
    plan
        The plan of the run.
    target
        As given to Snakemake: `crop10` or a path; any other passes.

    Raises
    ------
    InputError
        The plan has no such crop, dataset, label or training, or no ground truth is configured.
    """
    below = os.path.relpath(os.path.normpath(target), plan.output)
    problem = None
    if found := re.fullmatch(r"crop(?P<crop>\d+)", target) or _match(below, CROP_TARGETS):
        problem = _crop_problem(plan, **found.groupdict())
    elif found := _match(below, NETWORK_TARGETS):
        problem = _network_problem(plan, found["network"])
    elif found := _match(below, [PATHS.calibration()]):
        problem = _unknown(found["training"], list(plan.trainings), "`trainings`")
    elif found := _match(below, SOURCE_TARGETS):
        known = plan.validated_sources()
        problem = _unknown(found["source"], known, "the sources of this submission's labels")
    elif plan.config.ground_truth is None and {target, below}.intersection(SCORE_TARGETS):
        problem = (
            "there is no ground truth to score against: set `ground_truth` to the zarr of the "
            "test crops' labels"
        )
    if problem:
        raise InputError(f"target {target}: {problem}")


def _match(path: str, patterns: Iterable[Path]) -> re.Match[str] | None:
    """Match a path against patterns with wildcards; a crop is a number."""
    for pattern in patterns:
        regex = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(str(pattern)))
        regex = regex.replace("(?P<crop>[^/]+)", r"(?P<crop>\d+)")
        regex = regex.replace("(?P<network>[^/]+)", r"(?P<network>[^/]+(/fold\d+)?)")
        found = re.fullmatch(regex, path)
        if found:
            return found
    return None


def _network_problem(plan: Plan, network: str) -> str | None:
    """Why there is no such network, or None."""
    training = training_of(network)
    problem = _unknown(training, list(plan.trainings), "`trainings`")
    if problem or network in (networks := plan.networks_of(training)):
        return problem
    return f"training {training!r} has the networks {', '.join(networks)}, not {network!r}"


def _crop_problem(
    plan: Plan,
    crop: str,
    dataset: str | None = None,
    training: str | None = None,
    label: str | None = None,
) -> str | None:
    """Why a crop has no such prediction or label, or None."""
    number, datasets = int(crop), plan.dataset_by_crop()
    if number not in datasets:
        if any(row.crop == number for row in plan.manifest_rows):
            return f"`submission` leaves crop {crop} out: see its `crops` and `classes`"
        known = ", ".join(map(str, datasets))
        return f"there is no crop {crop} in {plan.config.test_crops}, only {known}"
    if dataset not in (None, datasets[number]):
        return f"crop {crop} belongs to the dataset {datasets[number]!r}"
    if training is not None:
        problem = _unknown(training, list(plan.trainings), "`trainings`")
        if problem:
            return problem
        if number not in plan.rows_by_crop(training):
            return (
                f"training {training!r} predicts nothing of crop {crop}: see its `classes` and "
                "`serves`, and `submission.select`"
            )
    labels = [row.label for row in plan.rows_to_segment() if row.crop == number]
    if label not in (None, *labels):
        return f"of crop {crop} only {', '.join(labels)} are written, not {label!r}"
    return None


def _unknown(name: str, known: Sequence[str], what: str) -> str | None:
    """Why a name is refused, or None if it is known."""
    if name in known:
        return None
    return f"{name!r} is not among {what}{did_you_mean(name, known)}: {', '.join(known)}"
