"""A plan from the configuration's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cellmap_pipeline.config.load import load_training, parse_run, read_run
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.manifest import local_manifest, read_manifest
from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.plan.checks import check_plan
from cellmap_pipeline.plan.contents import fetched_crops, parts_by_training, submitted_rows
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.sources import AVERAGE

# Folders of the output that are not a training's.
RESERVED = {
    "segmentations", "figures", "logs", "benchmarks", "inputs", "checked", "fetched", AVERAGE
}  # fmt: skip


def make_plan(config: Mapping[str, Any], source: str, training_folders: Sequence[Path]) -> Plan:
    """Read all that a run is made of.

    Parameters
    ----------
    config
        The run's configuration.
    source
        What errors call it.
    training_folders
        Where to look for the trainings' files.

    Raises
    ------
    InputError
        Anything in the configuration, the trainings' files or the manifest is wrong; the message
        lists all of it, a line each.
    """
    run = parse_run(config, source)
    for key, names in (("trainings", run.trainings), ("predictions", run.predictions)):
        taken = RESERVED.intersection(names)
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
        manifest = local_manifest(run.test_crops, Path(run.output) / "inputs")
        rows = read_manifest(manifest)
        submitted = submitted_rows(rows, run, source)
    raise_all(problems)
    plan = Plan(run, trainings, submitted, manifest, rows)
    plan = replace(plan, parts=parts_by_training(plan))
    check_plan(plan, source)
    return replace(plan, fetched=fetched_crops(plan)) if run.fetch else plan


def read_plan(path: Path) -> Plan:
    """The plan of the run that a file configures, without Snakemake; raises as `make_plan`."""
    here = Path(__file__).resolve().parents[3]
    folders = [folder / "training" for folder in (Path("config"), path.parent, here / "config")]
    return make_plan(read_run(path).model_dump(mode="json"), str(path), folders)
