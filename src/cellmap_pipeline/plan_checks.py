"""What is wrong with a plan: choices that nothing gives, files and folders that are not there.

Run while Snakemake parses (`check_plan`, `check_target`) and when a run starts (`check_folders`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from cellmap_pipeline.data.class_table import read_class_table
from cellmap_pipeline.errors import InputError, did_you_mean, gathered, raise_all
from cellmap_pipeline.plan_choices import wrong_choices

if TYPE_CHECKING:
    from cellmap_pipeline.plan import Plan

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


def check_plan(plan: Plan, source: str) -> None:
    """See that what the configuration names is there.

    Parameters
    ----------
    source : what errors call the run's configuration.

    Raises
    ------
    InputError
        `submission.select` names what cannot give a label, no label is given at all, or a file
        that a training names does not exist.
    """
    problems = [f"{source}: {line}" for line in wrong_choices(plan)]
    problems += _missing_files(plan)
    if not problems and not plan.given():
        problems.append(
            f"{source}: no training predicts any label of {plan.config.test_crops}: add one to "
            "`trainings`, or see `classes` and `serves` in its file"
        )
    raise_all(problems)


def check_folders(plan: Plan) -> None:
    """See that a run finds its data and can write its results.

    Raises
    ------
    InputError
        A folder of the data does not exist, or what is to be written to cannot be.
    """
    problems = []
    for key in ("data_root", "ground_truth"):
        path = getattr(plan.config, key)
        # What is fetched need not be here yet.
        if path is None or Path(path).is_dir() or (key == "data_root" and plan.config.fetch):
            continue
        lack = "is no folder" if Path(path).exists() else "does not exist"
        where = "" if os.path.isabs(path) else f" in {Path.cwd()}"
        problems.append(f"{key}: {path} {lack}{where}: set it to the folder of the data")
    with gathered(problems):
        check_writable("output", plan.output)
    zipped = Path("submission.zip")
    if zipped.is_dir():
        problems.append(f"{zipped.resolve()} is a folder: move it, the submission is to lie there")
    raise_all(problems)


def check_target(plan: Plan, target: str) -> None:
    """See that a target that is made of a test crop, a training or the truth can be.

    Parameters
    ----------
    target : as given to Snakemake, `crop10` or a path; any other passes.

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


def check_writable(key: str, folder: Path) -> None:
    """See that files can be made in a folder, which need not be there yet.

    Parameters
    ----------
    key : what errors call it.

    Raises
    ------
    InputError
        They cannot.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(f"{key}: {there} is no folder: move it, or choose another `{key}`")
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"{key}: nothing can be written in {there} ({error.strerror}): see who owns it and "
            f"whether your quota is used up, or choose another `{key}`"
        ) from None


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


def _missing_files(plan: Plan) -> Iterator[str]:
    made = {os.path.normpath(plan.output / name / "model.ckpt") for name in plan.trainings}
    for name, training in plan.trainings.items():
        checkpoint = training.inference.checkpoint
        named = {
            "datasplit": training.datasplit,
            "initial_weights": training.initial_weights,
            "inference.checkpoint": None if checkpoint in ("best", "last") else checkpoint,
        }
        for key, path in named.items():
            if path is None or Path(path).is_file() or os.path.normpath(path) in made:
                continue
            lack = "is no file" if Path(path).exists() else "does not exist"
            where = "" if os.path.isabs(path) else f" in {Path.cwd()}"
            yield f"training {name}: {key}: {path} {lack}{where}: correct the path, or leave it out"
        if training.mutual_exclusion:
            problems: list[str] = []
            with gathered(problems, f"training {name}: mutual_exclusion: "):
                read_class_table(Path(training.mutual_exclusion))
            yield from problems
