"""Checkpoints: what a training hands over, and the networks to predict with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from cellmap_pipeline.channels import output_channels
from cellmap_pipeline.config.training import Inference
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training.task import SegmentationTask

# What a checkpoint holds to go on from, and prediction does not need.
TRAINING_STATE = (
    "optimizer_states", "lr_schedulers", "callbacks", "loops", "epoch_loss",
    "current_model_state", "averaging_state",
)  # fmt: skip


def export(source: Path, target: Path) -> None:
    """Write the checkpoint without what only going on with the training takes, whole or not at
    all.
    """
    checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    for key in TRAINING_STATE:
        checkpoint.pop(key, None)
    beside = target.with_name(target.name + ".partial")
    torch.save(checkpoint, beside)
    os.replace(beside, target)


def load_checkpoint(path: Path) -> SegmentationTask:
    """The trained network in a checkpoint, in evaluation mode on the CPU.

    Raises
    ------
    InputError
        The file is not a checkpoint of this pipeline, or holds code.
    """
    try:
        task = SegmentationTask.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError, KeyError, TypeError, EOFError, OSError, ValueError, UnpicklingError
    ) as error:  # fmt: skip
        why = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise InputError(
            f"{path} is not a checkpoint of this pipeline ({why}): give the model.ckpt that its "
            "training wrote; it holds tensors and plain settings only"
        ) from error
    return task.eval()


def load_networks(
    checkpoint: Path, inference: Inference, expected: Mapping[str, Any]
) -> list[SegmentationTask]:
    """The networks to predict with, whose probabilities are averaged.

    Parameters
    ----------
    checkpoint
        `model.ckpt` of a training, or the file that `inference.checkpoint` names.
    inference
        Its `checkpoint` may ask for the training's `last` instead of its best, its `checkpoints`
        for several of the best, which lie in `training/checkpoints` beside it.
    expected
        `classes`, `voxel_size` and `targets` of the training's file.

    Raises
    ------
    InputError
        A file is missing or no checkpoint, or predicts other classes, channels or voxels.
    """
    kept = checkpoint.parent / "training" / "checkpoints"
    if inference.checkpoint == "last":
        paths = [kept / "last.ckpt"]
    elif inference.checkpoints == 1:
        paths = [checkpoint]
    else:
        paths = best_checkpoints(kept, inference.checkpoints)
    tasks = [load_checkpoint(path) for path in paths]
    for path, task in zip(paths, tasks, strict=True):
        check_matches(path, task, expected)
    return tasks


def best_checkpoints(folder: Path, number: int) -> list[Path]:
    """The `number` checkpoints with the best validation Dice, by their names `{epoch}-{dice}`.

    Raises
    ------
    InputError
        There are fewer.
    """
    scored = []
    for path in folder.glob("*-*.ckpt"):
        epoch, dice = path.stem.split("-", 1)
        scored.append((-float(dice), int(epoch), path))
    if len(scored) < number:
        raise InputError(
            f"inference.checkpoints: {number} are asked for, but {folder} holds {len(scored)}: "
            "set it to no more than that, or train longer"
        )
    return [path for *_, path in sorted(scored)[:number]]


def check_matches(path: Path, task: SegmentationTask, expected: Mapping[str, Any]) -> None:
    """See that a network gives what the training's file says.

    Raises
    ------
    InputError
        It does not.
    """
    own = task.training_settings
    wanted = output_channels(expected["classes"], expected["targets"])
    lacking = [channel for channel in wanted if channel not in task.channels]
    if lacking:
        raise InputError(
            f"{path} does not predict {', '.join(lacking)} of the training's `classes` and "
            f"`targets`, but {', '.join(task.channels)}: set them to what it predicts, or give "
            "another checkpoint"
        )
    if list(own.voxel_size) != list(expected["voxel_size"]):
        raise InputError(
            f"{path} was trained at {list(own.voxel_size)} nm, but the training's `voxel_size` is "
            f"{list(expected['voxel_size'])}: set it to that, or give another checkpoint"
        )
