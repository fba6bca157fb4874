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

from cellmap_pipeline.config import RunConfig, Training, load_training, parse_run
from cellmap_pipeline.crop_table import (
    crop_folders,
    crops_to_fetch,
    parse_crop_table,
    read_crop_table,
)
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, union
from cellmap_pipeline.manifest import CropLabel, local_copy, local_manifest, read_manifest
from cellmap_pipeline.state import fingerprint_of

# Raised by one when the results of a stage change with the same settings: then, and only then,
# a new version of this package makes the stage run again.
RESULT_VERSION = {
    "fetch": 1,
    "check_inputs": 1,
    "datasplit": 2,
    "train": 3,
    "validate": 2,
    "predict": 2,
    "select": 1,
    "segment": 1,
    "package": 2,
    "score": 2,
    "figures": 1,
}

# The keys of a training's file that the result of each stage depends on.
DATASPLIT_KEYS = (
    "classes",
    "voxel_size",
    "datasets",
    "crops",
    "validation_fraction",
    "seed",
)
TRAIN_KEYS = (
    "classes",
    "voxel_size",
    "model",
    "patch_size",
    "seed",
    "epochs",
    "iterations_per_epoch",
    "validation_iterations",
    "batch_size",
    "accumulate_grad_batches",
    "gradient_clip",
    "precision",
    "compile",
    "ema",
    "initial_weights",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "scheduler",
    "targets",
    "loss",
    "class_weights",
    "augment",
    "loader",
    "mutual_exclusion",
    "early_stopping_patience",
    "save_top_k",
    "devices",
)
# Those that change no result.
TRAIN_OPTIONS = ("num_workers", "memory_gb", "checkpoint_minutes", "log_every_steps")
# Folders of the output that are not a training's.
RESERVED = {"segmentations", "figures", "logs", "benchmarks", "inputs", "fetched"}
INFERENCE_KEYS = ("checkpoint", "window", "overlap", "blending", "symmetries")


@dataclass(frozen=True)
class Plan:
    """A run's configuration, its trainings and the labels of test crops that it submits."""

    config: RunConfig
    trainings: dict[str, Training]
    crop_labels: list[CropLabel]
    manifest: Path
    # All of the manifest, also what is not submitted.
    manifest_rows: list[CropLabel] = field(default_factory=list)
    # By crop, what is to be brought of it (`crop_table.crops_to_fetch`).
    fetched: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The folder of all results."""
        return Path(self.config.output)

    def sources(self, row: CropLabel) -> list[str]:
        """Trainings, and predictions made elsewhere, that give the label of this row."""
        select = self.config.submission.select
        if isinstance(select, dict) and row.label in select:
            return [select[row.label]]
        trained = [
            name
            for name, training in self.trainings.items()
            if row.label in training.classes and training.serves_grid(row.grid)
        ]
        return trained + list(self.config.predictions)

    def segmented(self) -> list[CropLabel]:
        """Rows that some source gives."""
        return [row for row in self.crop_labels if self.sources(row)]

    def predicted(self, training: str) -> dict[int, list[CropLabel]]:
        """By crop, the rows that `training` predicts."""
        crops: dict[int, list[CropLabel]] = {}
        for row in self.crop_labels:
            if training in self.sources(row):
                crops.setdefault(row.crop, []).append(row)
        return crops

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
        Anything in the configuration, the trainings' files or the manifest is wrong.
    """
    run = parse_run(config, source)
    taken = RESERVED.intersection(run.trainings)
    if taken:
        raise InputError(
            f"{source}: trainings: {', '.join(sorted(taken))} is the name of a folder of the "
            "results: give the training's file another name"
        )
    trainings = {name: load_training(name, training_folders) for name in run.trainings}
    manifest = local_manifest(run.test_crops, Path(run.output) / "inputs")
    rows = read_manifest(manifest)
    plan = Plan(run, trainings, _submitted(rows, run, source), manifest, rows)
    _check_selection(plan, source)
    return replace(plan, fetched=_crops_to_fetch(plan)) if run.fetch else plan


def training_settings(training: Training, keys: Sequence[str]) -> dict[str, Any]:
    """The part of a training's settings named by `keys`, in plain builtins and fixed order."""
    values = training.model_dump(mode="json")
    return {key: values[key] for key in keys}


def inference_settings(training: Training) -> dict[str, Any]:
    """What the result of a prediction depends on besides the checkpoint, in plain builtins."""
    values = training.inference.model_dump(mode="json")
    return {key: values[key] for key in INFERENCE_KEYS}


def prediction_jobs(training: Training, rows: Sequence[CropLabel]) -> int:
    """Into how many jobs the prediction of a crop's `rows` is cut."""
    voxels = union([row.grid for row in rows]).at(training.voxel_size).size
    limit = training.inference.job_voxels or voxels
    return max(training.inference.jobs, math.ceil(voxels / limit))


def training_lineage(training: Training) -> str:
    """A hash of all settings that the checkpoint of a training depends on.

    The stages after it track it, too: when a changed training fails, its checkpoint is gone, and
    without this Snakemake would take the old results of those stages for finished.
    """
    keys = dict.fromkeys([*DATASPLIT_KEYS, "datasplit", *TRAIN_KEYS])
    return fingerprint_of(training_settings(training, list(keys)))


def label_lineage(plan: Plan, row: CropLabel) -> str:
    """A hash of all settings that the final label of a row depends on."""
    sources: dict[str, Any] = {}
    for name in plan.sources(row):
        if name in plan.trainings:
            training = plan.trainings[name]
            own = training.postprocess.get(row.label, {})
            sources[name] = [training_lineage(training), inference_settings(training), own]
        else:
            sources[name] = plan.config.predictions[name]
    select = plan.config.submission.model_dump(mode="json")["select"]
    choice = select.get(row.label, "best") if isinstance(select, dict) else select
    return fingerprint_of({"sources": sources, "choice": choice, "row": row_settings(row)})


def crop_label(settings: Mapping[str, Any]) -> CropLabel:
    """The manifest row that `row_settings` was made of."""
    grid = Grid(settings["voxel_size"], settings["translation"], settings["shape"])
    return CropLabel(settings["crop"], settings["dataset"], settings["label"], grid)


def row_settings(row: CropLabel) -> dict[str, Any]:
    """A manifest row in plain builtins."""
    return {
        "crop": row.crop,
        "dataset": row.dataset,
        "label": row.label,
        "voxel_size": list(row.grid.voxel_size),
        "translation": list(row.grid.translation),
        "shape": list(row.grid.shape),
    }


def _submitted(rows: list[CropLabel], run: RunConfig, source: str) -> list[CropLabel]:
    crops, classes = run.submission.crops, run.submission.classes
    for key, wanted, there in (
        ("crops", crops, {row.crop for row in rows}),
        ("classes", classes, {row.label for row in rows}),
    ):
        unknown = [] if wanted == "all" else [str(v) for v in wanted if v not in there]
        if unknown:
            raise InputError(
                f"{source}: submission.{key}: {', '.join(unknown)} not in {run.test_crops}; there "
                f"are: {', '.join(sorted(str(v) for v in there))}"
            )
    return [
        row
        for row in rows
        if (crops == "all" or row.crop in crops) and (classes == "all" or row.label in classes)
    ]


def _crops_to_fetch(plan: Plan) -> dict[int, dict[str, Any]]:
    assert plan.config.fetch
    path = local_copy(
        plan.config.fetch.crops, plan.output / "inputs/crops.csv", "fetch.crops", parse_crop_table
    )
    table = read_crop_table(path)
    used = plan.used()
    for name in used:
        numbers = plan.trainings[name].crops or []
        nowhere = [
            n for n in numbers if n not in table and not crop_folders(plan.config.data_root, n)
        ]
        if nowhere:
            raise InputError(
                f"{name}: `crops`: {', '.join(map(str, nowhere))} stand neither in the table of "
                f"fetch.crops nor below {plan.config.data_root}: correct the numbers"
            )
    return crops_to_fetch(
        table,
        [plan.trainings[name] for name in used],
        [plan.predicted(name) for name in used],
    )


def _check_selection(plan: Plan, source: str) -> None:
    select = plan.config.submission.select
    for label, name in select.items() if isinstance(select, dict) else ():
        if name in plan.config.predictions:
            continue
        if name not in plan.trainings:
            known = [*plan.trainings, *plan.config.predictions]
            raise InputError(
                f"{source}: submission.select.{label}: {name!r} is not among trainings or "
                f"predictions ({', '.join(known)})"
            )
        if label not in plan.trainings[name].classes:
            raise InputError(
                f"{source}: submission.select.{label}: training {name!r} does not predict it (its "
                f"classes: {', '.join(plan.trainings[name].classes)})"
            )
    if not plan.segmented():
        raise InputError(
            f"{source}: no training predicts any label of {plan.config.test_crops}: add one to "
            "`trainings`, or see `classes` and `serves` in its file"
        )
