"""The stages of a run, and the keys of a training's file that the result of each depends on.

Each key says where it is declared (`training.Training`) which groups it belongs to; the tuples
here follow from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.config.types import Affects, keys_that_affect
from cellmap_pipeline.run.resume import fingerprint_of

# Raise a stage's number by one when its results change for the same settings: then, and only then,
# a new version of this package reruns the stage.
RESULT_VERSION = {
    "fetch": 3,
    "split": 2,
    "datasplit": 5,
    "raw_statistics": 1,
    "train": 7,
    "validate": 12,
    "predict": 5,
    "pseudo_labels": 2,
    "select": 3,
    "segment": 8,
    "package": 3,
    "score": 5,
    "figures": 4,
}

DATASPLIT_KEYS = keys_that_affect(Training, Affects.DATASPLIT)
TRAIN_KEYS = (
    *keys_that_affect(Training, Affects.LEARNING),
    *keys_that_affect(Training, Affects.TRAINING_RUN),
)
# They change no result of a training.
TRAIN_OPTIONS = keys_that_affect(Training, Affects.TRAINING_SPEED)
INFERENCE_KEYS = keys_that_affect(Inference, Affects.PREDICTION)
# A checkpoint must agree in these with the training that predicts with it.
NETWORK_KEYS = keys_that_affect(Training, Affects.NETWORK)


def training_settings(training: Training, keys: Sequence[str]) -> dict[str, Any]:
    """The settings of a training named by `keys`, JSON-serializable and in that order.

    Keys that a training leaves out at their default (`Training`) are missing.
    """
    values = training.model_dump(mode="json")
    return {key: values[key] for key in keys if key in values}


def inference_settings(training: Training) -> dict[str, Any]:
    """The settings that the result of a prediction depends on, besides the checkpoint."""
    values = training.inference.model_dump(mode="json")
    return {key: values[key] for key in INFERENCE_KEYS if key in values}


def inference_of_params(params: Mapping[str, Any], options: Mapping[str, Any]) -> Inference:
    """Return the section of a job from its `params`, `inference_settings` among them.

    `options` are keys that change no result.
    """
    settings = {key: params[key] for key in INFERENCE_KEYS if key in params}
    return Inference.model_validate(settings | dict(options))


def training_lineage(training: Training, split: Mapping[str, Any]) -> str:
    """Hash all settings that the checkpoints of a training depend on, with those of its split.

    Later stages track the hash, too: when a changed training fails, its checkpoint is gone, and
    Snakemake would take the old results of those stages for finished.
    """
    keys = dict.fromkeys([*DATASPLIT_KEYS, "datasplit", *TRAIN_KEYS])
    return fingerprint_of([training_settings(training, list(keys)), dict(split)])
