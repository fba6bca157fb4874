"""What is wrong with a plan: choices that nothing gives, files and folders that are not there.

Run while Snakemake parses (`check_plan`, `check_target`) and when a run starts (`check_folders`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from cellmap_pipeline.config_messages import did_you_mean
from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.relations import read_class_table
from cellmap_pipeline.selection import origin

if TYPE_CHECKING:
    from cellmap_pipeline.plan import Plan

# Below `output`, what is made of one test crop.
OF_CROP = re.compile(
    r"(?:(?P<training>[^/]+)/predictions|segmentations|figures/crops)/(?P<dataset>[^/]+)/"
    r"crop(?P<crop>\d+)(?:\.jpg|/(?P<label>[^/]+))?"
)


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
    problems = [*_unselectable(plan, source), *_missing_files(plan)]
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
    """See that a target that is made of one test crop can be: `crop10`, or a path.

    Parameters
    ----------
    target : as given to Snakemake; any other than of a crop passes.

    Raises
    ------
    InputError
        The plan has no such crop, or not this dataset, training or label of it.
    """
    below = os.path.relpath(os.path.normpath(target), plan.output)
    found = re.fullmatch(r"crop(?P<crop>\d+)", target) or OF_CROP.fullmatch(below)
    wrong = _not_of_crop(plan, **found.groupdict()) if found else None
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
        if training not in plan.trainings:
            near = did_you_mean(training, list(plan.trainings))
            return f"{training!r} is not among `trainings`{near}"
        if number not in plan.predicted(training):
            return (
                f"training {training!r} predicts nothing of crop {crop}: see its `classes` and "
                "`serves`, and `submission.select`"
            )
    labels = [row.label for row in plan.segmented() if row.crop == number]
    if label not in (None, *labels):
        return f"of crop {crop} only {', '.join(labels)} are written, not {label!r}"
    return None


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


def _unselectable(plan: Plan, source: str) -> Iterator[str]:
    select = plan.config.submission.select
    for label, choice in select.items() if isinstance(select, dict) else ():
        for name in _names_in(choice):
            problem = _cannot_give(plan, label, name)
            if problem:
                yield f"{source}: submission.select.{label}: {problem}"


def _names_in(choice: Any) -> list[str]:
    if isinstance(choice, str):
        return [choice]
    parts = choice.values() if isinstance(choice, dict) else choice
    return [name for part in parts for name in _names_in(part)]


def _cannot_give(plan: Plan, label: str, source: str) -> str | None:
    """Why a source cannot give a label, or None."""
    name = origin(source)
    if name in plan.config.predictions and name == source:
        return None
    if name not in plan.trainings:
        known = ", ".join([*plan.trainings, *plan.config.predictions])
        return f"{source!r} is not among trainings or predictions ({known})"
    classes = ", ".join(plan.trainings[name].classes)
    if name == source and label not in plan.trainings[name].classes:
        return f"training {name!r} does not predict it (its classes: {classes})"
    if name != source and label not in plan.parts.get(name, {}):
        return (
            f"training {name!r} does not predict all parts of it (its classes: {classes}; "
            f"class_table: {plan.config.class_table})"
        )
    return None
