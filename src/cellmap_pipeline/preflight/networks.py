"""Checks of networks before training: whether they can be built, and their initial weights.

This module imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training.checkpoints import check_matches, load_checkpoint
from cellmap_pipeline.training.initial_weights import load_initial_weights
from cellmap_pipeline.training.task import SegmentationTask


def check_network(training: Training) -> int:
    """Build the network of a training and load its initial weights, if they exist already.

    Returns
    -------
    Number of weights.

    Raises
    ------
    InputError
        The network cannot be built, or the initial weights do not fit it.
    """
    task = SegmentationTask(training_settings(training, TRAIN_KEYS))
    initial = training.initial_weights
    if initial and Path(initial.path).exists():
        load_initial_weights(task, initial)
    return sum(weights.numel() for weights in task.parameters())


def check_checkpoint(path: Path, expected: Mapping[str, Any]) -> None:
    """Check that a training can predict with an external checkpoint.

    Parameters
    ----------
    path
        Path of the checkpoint.
    expected
        Settings that it must match (`checkpoints.check_matches`).

    Raises
    ------
    InputError
        The file is not a checkpoint, or has other classes, channels or voxel sizes.
    """
    try:
        check_matches(path, load_checkpoint(path), expected)
    except InputError as error:
        raise InputError(f"inference.checkpoint: {error}") from None
