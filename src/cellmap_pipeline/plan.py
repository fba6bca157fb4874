"""What a run makes: which training predicts which label of which test crop.

Known from the configuration and the manifest alone, so that the whole DAG is known while
Snakemake parses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cellmap_pipeline.config.load import load_training, parse_run, read_run
from cellmap_pipeline.config.run import PARTS, RunConfig
from cellmap_pipeline.config.stages import inference_settings, training_lineage
from cellmap_pipeline.config.training import JobStage, Training
from cellmap_pipeline.crop_label import CropLabel, row_settings
from cellmap_pipeline.data.manifest import local_manifest, read_manifest
from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.geometry import union
from cellmap_pipeline.plan_checks import check_plan
from cellmap_pipeline.plan_contents import (
    fetched_crops,
    parts_by_training,
    source_path,
    submitted_rows,
)
from cellmap_pipeline.run.resume import fingerprint_of
from cellmap_pipeline.selection import AVERAGE, named_sources, origin

# What a job of a training asks a cluster for, unless its file says otherwise; MB and minutes.
RESOURCES = {
    "train": {"mem_mb": 16000, "runtime": 2880, "cpus_per_task": 0},
    "validate": {"mem_mb": 32000, "runtime": 480, "cpus_per_task": 8},
    "predict": {"mem_mb": 16000, "runtime": 720, "cpus_per_task": 8},
}
# The same, for each GPU that trains; and for each GB that its loader may keep.
PER_DEVICE = {"mem_mb": 8000, "cpus_per_task": 8}
PER_LOADER_GB = 2000
# Of a crop to be labelled, for each process.
THREAD_VOXELS = 32_000_000
# Folders of the output that are not a training's.
RESERVED = {
    "segmentations", "figures", "logs", "benchmarks", "inputs", "checked", "fetched", AVERAGE
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A run's configuration, its trainings and the labels of test crops that it submits."""

    config: RunConfig
    trainings: dict[str, Training]
    crop_labels: list[CropLabel]
    manifest: Path
    # All of the manifest, also what is not submitted.
    manifest_rows: list[CropLabel] = field(default_factory=list)
    # By training and label that it does not predict, those that make it together.
    parts: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    # By crop, what is to be brought of it (`crop_table.crops_to_fetch`).
    fetched: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The folder of all results."""
        return Path(self.config.output)

    def sources(self, row: CropLabel) -> list[str]:
        """What gives the label of this row: trainings, parts that one predicts (`NAME:parts`),
        and predictions made elsewhere."""
        named = named_sources(row, self.config.submission.select)
        if named:
            return named
        found = []
        for name, training in self.trainings.items():
            if not training.serves_grid(row.grid):
                continue
            if row.label in training.classes:
                found.append(name)
            elif row.label in self.parts.get(name, {}):
                found.append(name + PARTS)
        return found + [
            name
            for name, elsewhere in self.config.predictions.items()
            if elsewhere.classes == "all" or row.label in elsewhere.classes
        ]

    def given(self) -> list[CropLabel]:
        """Rows that some source gives."""
        return [row for row in self.crop_labels if self.sources(row)]

    def segmented(self) -> list[CropLabel]:
        """Rows that are written: those that are given, and empty ones where these are wanted."""
        if self.config.submission.missing == "empty":
            return self.crop_labels
        return self.given()

    def predicted(self, training: str) -> dict[int, list[CropLabel]]:
        """By crop, the rows that `training` predicts; parts of a label lie on its grid."""
        crops: dict[int, dict[str, CropLabel]] = {}
        for row in self.crop_labels:
            sources = self.sources(row)
            if training in sources:
                crops.setdefault(row.crop, {})[row.label] = row
        for row in self.crop_labels:
            if training + PARTS in self.sources(row):
                for part in self.parts[training][row.label]:
                    of_crop = crops.setdefault(row.crop, {})
                    of_crop.setdefault(part, replace(row, label=part))
        return {crop: list(rows.values()) for crop, rows in crops.items()}

    def averaged(self) -> dict[str, list[list[str]]]:
        """By label, the sources that are averaged: others, maybe, at other voxel sizes."""
        select = self.config.submission.select
        found: dict[str, list[list[str]]] = {}
        for row in self.crop_labels:
            sources = self.sources(row)
            averaged = select == AVERAGE or named_sources(row, select)
            if len(sources) > 1 and averaged and sources not in found.get(row.label, []):
                found.setdefault(row.label, []).append(sources)
        return found

    def validated(self) -> list[str]:
        """What is scored on validation crops: trainings, predictions made elsewhere, averages."""
        given = {source for row in self.crop_labels for source in self.sources(row)}
        elsewhere = [name for name in self.config.predictions if name in given]
        return self.used() + elsewhere + ([AVERAGE] if self.averaged() else [])

    def dataset_of(self) -> dict[int, str]:
        """The dataset of each test crop."""
        return {row.crop: row.dataset for row in self.crop_labels}

    def used(self) -> list[str]:
        """Trainings that predict something that is submitted."""
        return [name for name in self.trainings if self.predicted(name)]


def make_plan(config: Mapping[str, Any], source: str, training_folders: Sequence[Path]) -> Plan:
    """Read all that a run is made of.

    Parameters
    ----------
    config : the run's configuration.
    source : what errors call it.
    training_folders : where to look for the trainings' files.

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
    here = Path(__file__).resolve().parents[2]
    folders = [folder / "training" for folder in (Path("config"), path.parent, here / "config")]
    return make_plan(read_run(path).model_dump(mode="json"), str(path), folders)


def resources(training: Training, stage: JobStage) -> dict[str, int]:
    """What a training's jobs of `stage` ask a cluster for."""
    asked = dict(RESOURCES[stage])
    if stage == "train":
        for key, value in PER_DEVICE.items():
            asked[key] += value * training.devices
        asked["mem_mb"] += round(PER_LOADER_GB * training.memory_gb) * training.devices
    own = training.resources.get(stage)
    return asked | (own.model_dump(exclude_none=True) if own else {})


def prediction_jobs(training: Training, rows: Sequence[CropLabel]) -> int:
    """Into how many jobs the prediction of a crop's `rows` is cut."""
    voxels = union([row.grid for row in rows]).at(training.voxel_size).size
    limit = training.inference.job_voxels or voxels
    return max(training.inference.jobs, math.ceil(voxels / limit))


def label_lineage(plan: Plan, row: CropLabel) -> str:
    """A hash of all settings that the final label of a row depends on."""
    sources: dict[str, Any] = {}
    for source in plan.sources(row):
        name = origin(source)
        if name in plan.trainings:
            training = plan.trainings[name]
            own = training.postprocess.get(row.label, {})
            parts = plan.parts[name][row.label] if source != name else []
            made = [training_lineage(training), inference_settings(training), own]
            sources[source] = [*made, parts] if parts else made
        else:
            sources[source] = plan.config.predictions[name].path
    choice = choice_for(plan, row)
    return fingerprint_of({"sources": sources, "choice": choice, "row": row_settings(row)})


def choice_for(plan: Plan, row: CropLabel) -> str:
    """How a row's label is chosen among its sources: `best`, or `average`."""
    select = plan.config.submission.select
    averaged = select == AVERAGE or bool(named_sources(row, select))
    return AVERAGE if averaged and len(plan.sources(row)) > 1 else "best"


def label_sources(plan: Plan, row: CropLabel) -> dict[str, list[str]]:
    """By source of a row, the paths of its predictions: one, or those of its parts."""
    paths = {}
    for source in plan.sources(row):
        path, parts = source_path(plan, source, row.label, "predictions")
        paths[source] = [
            path.format(dataset=row.dataset, crop=row.crop, label=label)
            for label in parts or [row.label]
        ]
    return paths


def elsewhere_paths(plan: Plan, name: str) -> list[str]:
    """Where predictions made elsewhere of all labels that they give must lie."""
    path = plan.config.predictions[name].path
    return [
        path.format(dataset=row.dataset, crop=row.crop, label=row.label)
        for row in plan.crop_labels
        if name in plan.sources(row)
    ]


def segmentation_threads(row: CropLabel) -> int:
    """Processes that make a label side by side: more for larger crops, which are cut in blocks."""
    return max(1, min(4, row.grid.size // THREAD_VOXELS))
