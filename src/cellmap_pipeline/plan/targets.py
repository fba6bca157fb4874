"""Targets as the command line names them: a message for each that nothing makes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from cellmap_pipeline.errors import InputError, did_you_mean
from cellmap_pipeline.plan.plan import Plan

# Below `output`, what is made of one test crop.
OF_CROP = re.compile(
    r"(?:(?P<training>[^/]+)/predictions|segmentations|figures/crops)/(?P<dataset>[^/]+)/"
    r"crop(?P<crop>\d+)(?:\.jpg|/(?P<label>[^/]+))?"
)
# And what is made of one training; what is scored in validation may have another source, too.
OF_TRAINING = re.compile(
    r"([^/]+)/(?:datasplit(?:_summary)?\.csv|model\.ckpt|calibration\.json|"
    r"validation/predictions)|figures/(?:datasplit|training)/([^/]+)\.png"
)
OF_SOURCE = re.compile(r"([^/]+)/validation/[^/]+\.json|figures/validation/([^/]+)\.png")
# What only the truth of the test crops gives.
OF_TRUTH = ("score", "scores.json", "scores.csv", "figures/scores.png", "figures/cases.jpg")


def check_target(plan: Plan, target: str) -> None:
    """See that a target that is made of a test crop, a training or the truth can be.

    Parameters
    ----------
    target
        As given to Snakemake, `crop10` or a path; any other passes.

    Raises
    ------
    InputError
        The plan has no such crop, not this dataset or label of it, no such training, or no truth.
    """
    below = os.path.relpath(os.path.normpath(target), plan.output)
    wrong = None
    if found := re.fullmatch(r"crop(?P<crop>\d+)", target) or OF_CROP.fullmatch(below):
        wrong = _not_of_crop(plan, **found.groupdict())
    elif found := OF_TRAINING.fullmatch(below):
        wrong = _not_among(found[1] or found[2], list(plan.trainings), "`trainings`")
    elif found := OF_SOURCE.fullmatch(below):
        given = "what gives labels of this submission"
        wrong = _not_among(found[1] or found[2], plan.validated(), given)
    elif plan.config.ground_truth is None and {target, below}.intersection(OF_TRUTH):
        wrong = "there is no truth to score by: set `ground_truth` to the zarr of the test crops'"
    if wrong:
        raise InputError(f"target {target}: {wrong}")


def _not_of_crop(
    plan: Plan,
    crop: str,
    dataset: str | None = None,
    training: str | None = None,
    label: str | None = None,
) -> str | None:
    """Why a crop has no such prediction or label, or None."""
    number, datasets = int(crop), plan.dataset_of()
    if number not in datasets:
        if any(row.crop == number for row in plan.manifest_rows):
            return f"`submission` leaves crop {crop} out: see its `crops` and `classes`"
        known = ", ".join(map(str, datasets))
        return f"there is no crop {crop} in {plan.config.test_crops}, only {known}"
    if dataset not in (None, datasets[number]):
        return f"crop {crop} is of the dataset {datasets[number]!r}"
    if training is not None:
        wrong = _not_among(training, list(plan.trainings), "`trainings`")
        if wrong:
            return wrong
        if number not in plan.predicted(training):
            return (
                f"training {training!r} predicts nothing of crop {crop}: see its `classes` and "
                "`serves`, and `submission.select`"
            )
    labels = [row.label for row in plan.segmented() if row.crop == number]
    if label not in (None, *labels):
        return f"of crop {crop} only {', '.join(labels)} are written, not {label!r}"
    return None


def _not_among(name: str, known: Sequence[str], what: str) -> str | None:
    """What is said of a name that is not known, or None."""
    if name in known:
        return None
    return f"{name!r} is not among {what}{did_you_mean(name, known)}: {', '.join(known)}"
