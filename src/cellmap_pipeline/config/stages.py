"""The stages of a run, and the keys of the configuration that the result of each depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.run.resume import fingerprint_of

# Raised by one when the results of a stage change with the same settings: then, and only then,
# a new version of this package makes the stage run again.
RESULT_VERSION = {
    "fetch": 1,
    "datasplit": 2,
    "train": 3,
    "validate": 6,
    "predict": 3,
    "select": 2,
    "segment": 4,
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
INFERENCE_KEYS = ("checkpoint", "checkpoints", "window", "overlap", "blending", "symmetries")
# What a checkpoint to predict with must agree with.
NETWORK_KEYS = ("classes", "voxel_size", "targets")


def training_settings(training: Training, keys: Sequence[str]) -> dict[str, Any]:
    """The part of a training's settings named by `keys`, in plain builtins and fixed order."""
    values = training.model_dump(mode="json")
    return {key: values[key] for key in keys}


def inference_settings(training: Training) -> dict[str, Any]:
    """What the result of a prediction depends on besides the checkpoint, in plain builtins."""
    values = training.inference.model_dump(mode="json")
    return {key: values[key] for key in INFERENCE_KEYS}


def training_lineage(training: Training) -> str:
    """A hash of all settings that the checkpoint of a training depends on.

    The stages after it track it, too: when a changed training fails, its checkpoint is gone, and
    without this Snakemake would take the old results of those stages for finished.
    """
    keys = dict.fromkeys([*DATASPLIT_KEYS, "datasplit", *TRAIN_KEYS])
    return fingerprint_of(training_settings(training, list(keys)))
