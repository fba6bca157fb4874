"""What is wrong with a plan: choices that nothing gives, files and folders that are not there.

Run while Snakemake parses (`check_plan`, `check_target`) and when a run starts (`check_folders`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from cellmap_pipeline.data.class_table import read_class_table
from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.plan.choices import wrong_choices
from cellmap_pipeline.plan.plan import Plan


def check_plan(plan: Plan, source: str) -> None:
    """See that what the configuration names is there.

    Parameters
    ----------
    source
        What errors call the run's configuration.

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


def check_writable(key: str, folder: Path) -> None:
    """See that files can be made in a folder, which need not be there yet.

    Parameters
    ----------
    key
        What errors call it.

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
