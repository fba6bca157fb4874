"""Settings of trainings that refer to other files, replaced by what those files hold.

So these settings are part of what a training depends on, rather than the path of a table: a changed
table reruns the trainings whose classes it concerns, and a checkpoint predicts without the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.class_table import (
    ClassTable,
    find_atoms,
    parse_class_table,
    read_class_table,
)
from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.io.files import local_copy
from cellmap_pipeline.plan.plan import Plan


def read_run_class_table(plan: Plan) -> ClassTable | None:
    """Read the run's `class_table`; return None if it has none.

    Raises
    ------
    InputError
        The table cannot be read.
    """
    if plan.config.class_table is None:
        return None
    kept = plan.paths.inputs / "classes.csv"
    return read_class_table(
        local_copy(plan.config.class_table, kept, "class_table", parse_class_table)
    )


def resolved_trainings(plan: Plan, table: ClassTable | None) -> dict[str, Training]:
    """Return the plan's trainings with all settings resolved.

    `oversample: {datasets: test}` becomes weights by dataset, `hierarchy: true` the atoms of the
    training's classes, and the path in `mutual_exclusion` the leaves of the training's classes.

    Parameters
    ----------
    plan
        A plan whose trainings are as their files state.
    table
        The run's class table.

    Raises
    ------
    InputError
        A table is missing or cannot be read, or has none of a training's classes.
    """
    problems: list[str] = []
    resolved = {}
    for name, training in plan.trainings.items():
        update: dict[str, Any] = {}
        if training.oversample:
            update["oversample"] = training.oversample.resolved(plan.test_datasets)
        with gathered(problems, f"training {name}: "):
            if training.hierarchy is True:
                update["hierarchy"] = _atoms(training, table)
            if isinstance(training.mutual_exclusion, str):
                update["mutual_exclusion"] = _leaves(training, training.mutual_exclusion)
        resolved[name] = training.model_copy(update=update) if update else training
    raise_all(problems)
    return resolved


def _atoms(training: Training, table: ClassTable | None) -> list[list[str]]:
    if table is None:
        raise InputError(
            "`hierarchy: true` takes the classes' relations from the run's `class_table`: set that "
            "to the path or the URL of the challenge's classes.csv, or list the atoms here"
        )
    atoms = find_atoms(training.classes, table)
    if not atoms:
        raise InputError(
            f"`hierarchy: true`: the run's `class_table` has none of {', '.join(training.classes)}:"
            " correct their names, or set `hierarchy: false`"
        )
    return atoms


def _leaves(training: Training, path: str) -> dict[str, list[int]]:
    try:
        table = read_class_table(Path(path))
    except InputError as error:
        raise InputError(f"mutual_exclusion: {error}") from None
    leaves = {label: sorted(table[label]) for label in training.classes if label in table}
    if not leaves:
        raise InputError(
            f"mutual_exclusion: {path} has none of {', '.join(training.classes)}: correct their "
            "names, or leave it out"
        )
    return leaves
