"""Make a plan from the configuration, its training files and the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cellmap_pipeline.config.load import load_training, parse_run, read_run
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.manifest import local_manifest, read_manifest
from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.plan.checks import check_plan, teach_problems, validation_problems
from cellmap_pipeline.plan.contents import parts_by_training, submitted_rows
from cellmap_pipeline.plan.fetch import fetched_crops
from cellmap_pipeline.plan.paths import RESERVED_FOLDERS, ResultPaths
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.resolving import read_run_class_table, resolved_trainings


def make_plan(config: Mapping[str, Any], source: str, training_folders: Sequence[Path]) -> Plan:
    """Make the plan of a run.

    Parameters
    ----------
    config
        The run's configuration.
    source
        How errors refer to the configuration.
    training_folders
        Folders in which the trainings' files are looked for, in this order.

    Raises
    ------
    InputError
        The configuration, a training's file or the manifest is invalid; the message has a line
        for each problem.
    """
    run = parse_run(config, source)
    for key, names in (("trainings", run.trainings), ("predictions", run.predictions)):
        taken = RESERVED_FOLDERS.intersection(names)
        if taken:
            raise InputError(
                f"{source}: {key}: {', '.join(sorted(taken))} is the name of a folder of the "
                "results: choose another name"
            )
    problems: list[str] = []
    trainings: dict[str, Training] = {}
    for name in run.trainings:
        with gathered(problems):
            trainings[name] = load_training(name, training_folders)
    with gathered(problems):
        manifest = local_manifest(run.test_crops, ResultPaths(Path(run.output)).inputs)
        rows = read_manifest(manifest)
        submitted = submitted_rows(rows, run, source)
    raise_all(problems)
    plan = Plan(run, trainings, submitted, manifest, rows)
    problems += [*validation_problems(plan), *teach_problems(plan)]
    table = None
    with gathered(problems):
        table = read_run_class_table(plan)
        plan = replace(plan, trainings=resolved_trainings(plan, table))
    raise_all(problems)
    if table is not None:
        plan = replace(plan, parts=parts_by_training(plan, table))
    check_plan(plan, source)
    return replace(plan, fetched=fetched_crops(plan)) if run.fetch else plan


def read_plan(path: Path) -> Plan:
    """Make the plan of the run that a file configures, without Snakemake.

    Raises
    ------
    InputError
        As `make_plan`.
    """
    root = Path(__file__).resolve().parents[3]
    folders = [folder / "training" for folder in (Path("config"), path.parent, root / "config")]
    return make_plan(read_run(path).model_dump(mode="json"), str(path), folders)
