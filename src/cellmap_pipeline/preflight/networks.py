"""Networks before they are trained: whether they can be built, and the files that they begin with.

Imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training.checkpoints import check_matches, load_checkpoint
from cellmap_pipeline.training.initial_weights import load_initial
from cellmap_pipeline.training.task import SegmentationTask


def check_network(training: Training) -> int:
    """Build the network of a training and give it its initial weights, if they are here yet.

    Returns
    -------
    Number of its weights.

    Raises
    ------
    InputError
        It cannot be built, or the weights are none of such a network.
    """
    task = SegmentationTask(training_settings(training, TRAIN_KEYS))
    initial = training.initial_weights
    if initial is not None and Path(initial).exists():
        load_initial(task, Path(initial))
    return sum(weights.numel() for weights in task.parameters())


def check_checkpoint(path: Path, expected: Mapping[str, Any]) -> None:
    """See that a training can predict with a checkpoint from elsewhere.

    Parameters
    ----------
    expected
        What it must agree with (`checkpoints.check_matches`).

    Raises
    ------
    InputError
        It is none, or predicts other classes, channels or voxels.
    """
    try:
        check_matches(path, load_checkpoint(path), expected)
    except InputError as error:
        raise InputError(f"inference.checkpoint: {error}") from None
