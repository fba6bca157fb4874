"""Checks of a plan: choices that no source can provide, files and folders that do not exist.

`check_plan` runs while Snakemake parses, `check_folders` when a run starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from cellmap_pipeline.errors import InputError, did_you_mean, gathered, raise_all
from cellmap_pipeline.plan.choices import choice_problems
from cellmap_pipeline.plan.paths import SUBMISSION
from cellmap_pipeline.plan.plan import Plan


def check_plan(plan: Plan, source: str) -> None:
    """Check that everything that the configuration names exists.

    Parameters
    ----------
    plan
        The plan of a run.
    source
        How errors refer to the run's configuration.

    Raises
    ------
    InputError
        `submission.select` names a source that cannot provide a label, no label can be provided at
        all, or a file that a training names does not exist.
    """
    problems = [f"{source}: {line}" for line in choice_problems(plan)]
    problems += _missing_files(plan)
    if not problems and not plan.covered_rows():
        problems.append(
            f"{source}: no training predicts any label of {plan.config.test_crops}: add one to "
            "`trainings`, or see `classes` and `serves` in its file"
        )
    raise_all(problems)


def check_container(plan: Plan, source: str) -> None:
    """Check that there is an image to run jobs in.

    Parameters
    ----------
    plan
        The plan of a run.
    source
        How errors refer to the run's configuration.

    Raises
    ------
    InputError
        The configuration names none, or a file that does not exist.
    """
    image = plan.config.container
    if image is None:
        raise InputError(
            f"{source}: `--sdm apptainer` runs jobs in an image, but `container` names none: set "
            "it, or leave the option out"
        )
    if "://" not in image and not Path(image).exists():
        raise InputError(f"container: {_missing(image, 'image')}")


def check_folders(plan: Plan) -> None:
    """Check that a run finds its data and can write its results.

    Raises
    ------
    InputError
        A folder of the data does not exist, or results cannot be written.
    """
    problems = []
    for key in ("data_root", "ground_truth"):
        path = getattr(plan.config, key)
        # Data that are fetched need not exist yet.
        if path is None or Path(path).is_dir() or (key == "data_root" and plan.config.fetch):
            continue
        problems.append(f"{key}: {_missing(path, 'folder')}: set it to the folder of the data")
    with gathered(problems):
        check_writable("output", plan.output)
    if SUBMISSION.is_dir():
        problems.append(
            f"{SUBMISSION.resolve()} is a folder: move it, the submission is written to this path"
        )
    raise_all(problems)


def check_writable(key: str, folder: Path) -> None:
    """Check that files can be created in a folder, which need not exist yet.

    Parameters
    ----------
    key
        The configuration key that names the folder.
    folder
        The folder.

    Raises
    ------
    InputError
        No file can be created there.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise InputError(f"{key}: {existing} is no folder: move it, or choose another `{key}`")
    try:
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(
            f"{key}: nothing can be written in {existing} ({error.strerror}): check its owner and "
            f"your quota, or choose another `{key}`"
        ) from None


def validation_problems(plan: Plan) -> Iterator[str]:
    """Yield a line per training without the folds or the settings that its file refers to."""
    for name, training in plan.trainings.items():
        if training.validation == "folds" and plan.config.split.folds is None:
            yield (
                f"training {name}: `validation: folds` needs the number of folds: set "
                "`split: {folds: 5}` in the run's configuration"
            )
        if (other := training.settings_from) is None:
            continue
        origin = plan.settings_origin(name)
        remedy = "name a training with validation"
        if other not in plan.trainings:
            suggestion = did_you_mean(other, list(plan.trainings))
            yield (
                f"training {name}: settings_from: {other!r} is not among `trainings`{suggestion}: "
                f"{', '.join(plan.trainings)}"
            )
        elif plan.trainings[origin].settings_from:
            yield (
                f"training {name}: settings_from: following it from training to training leads "
                f"in a circle: {remedy}"
            )
        elif plan.trainings[origin].validation == "none":
            yield f"training {name}: settings_from: {origin!r} has no settings either: {remedy}"
        elif set(training.channels) != set(plan.trainings[origin].channels):
            yield (
                f"training {name}: settings_from: {origin!r} predicts other channels "
                f"({', '.join(plan.trainings[origin].channels)}) than {name!r} "
                f"({', '.join(training.channels)}): {remedy} of the same `classes` and `targets`"
            )


def teach_problems(plan: Plan) -> Iterator[str]:
    """Yield a line per training whose teacher cannot teach it."""
    for name, training in plan.trainings.items():
        if training.teach is None:
            continue
        where, other = f"training {name}: teach.from:", training.teach.teacher
        if other not in plan.trainings:
            suggestion = did_you_mean(other, list(plan.trainings))
            yield (
                f"{where} {other!r} is not among `trainings`{suggestion}: "
                f"{', '.join(plan.trainings)}"
            )
            continue
        teacher = plan.trainings[other]
        if name in plan.teachers(name):
            yield (
                f"{where} following it from training to training leads back to {name!r}: name a "
                "training that learns without it"
            )
        elif not set(training.classes) & set(teacher.classes):
            yield (
                f"{where} {other!r} predicts none of this training's classes, but "
                f"{', '.join(teacher.classes)}: name a training of a shared class"
            )
        elif (training.validation == "folds") != (teacher.validation == "folds"):
            yield (
                f"{where} {name!r} has `validation: {training.validation}` and {other!r} "
                f"`validation: {teacher.validation}`, but the network of each fold is taught by "
                "that of the same fold: set `validation: folds` in both, or in neither"
            )
        elif teacher.validation == "none" and training.validation != "none":
            yield (
                f"{where} {other!r} has `validation: none`, so it has seen the crops that "
                f"validate {name!r}, whose scores would say nothing: name a training with the "
                "same `validation`"
            )


def _missing(path: str, kind: str) -> str:
    problem = f"is no {kind}" if Path(path).exists() else "does not exist"
    return f"{path} {problem}" + ("" if os.path.isabs(path) else f" in {Path.cwd()}")


def _missing_files(plan: Plan) -> Iterator[str]:
    networks = [network for name in plan.trainings for network in plan.networks_of(name)]
    checkpoints = {os.path.normpath(plan.paths.checkpoint(network)) for network in networks}
    for name, training in plan.trainings.items():
        checkpoint, initial = training.inference.checkpoint, training.initial_weights
        paths = {
            "datasplit": training.datasplit,
            "initial_weights": initial.path if initial else None,
            "inference.checkpoint": None if checkpoint in ("best", "last") else checkpoint,
        }
        for key, path in paths.items():
            if path is None or Path(path).is_file() or os.path.normpath(path) in checkpoints:
                continue
            yield (
                f"training {name}: {key}: {_missing(path, 'file')}: correct the path, or leave it "
                "out"
            )
