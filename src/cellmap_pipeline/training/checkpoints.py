"""Checkpoints: write them, export one of a training, and load networks from them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from cellmap_pipeline.config.auxiliary_targets import channels_of_settings, check_symmetries
from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.files import atomic_write, reading
from cellmap_pipeline.training.skipping import first_nonfinite
from cellmap_pipeline.training.task import SegmentationTask

# Keys of a checkpoint that are needed to resume a training, but not to predict.
RESUME_KEYS = (
    "optimizer_states", "lr_schedulers", "callbacks", "loops", "epoch_loss", "skipped_steps",
    "current_model_state", "averaging_state",
)  # fmt: skip
# Raised for files that are truncated, hold code, or are no checkpoints.
BROKEN_ERRORS = (
    RuntimeError, KeyError, TypeError, EOFError, OSError, ValueError, UnpicklingError
)  # fmt: skip


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, but writing in their own folder.

    Lightning would write to `TMPDIR` first, and move the file from there.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint atomically; `storage_options` are not used."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(checkpoint, Path(path))


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint atomically, through a temporary file next to it."""
    # From a path, torch would not say why it cannot be written.
    with atomic_write(path, fsync=True) as tmp, tmp.open("wb") as file:
        torch.save(content, file)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a checkpoint for torch, which does not map it into memory then.

    Some file systems do not support that.

    Raises
    ------
    UnavailableError
        The file cannot be read now, also for lack of memory. For broken files, one of
        `BROKEN_ERRORS` is raised in the block.
    """
    no_memory = os.strerror(errno.ENOMEM)
    with reading(path), path.open("rb") as file:
        try:
            yield file
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or no_memory in str(error):
                raise OSError(errno.ENOMEM, no_memory) from error
            raise


def read_checkpoint(path: Path) -> Any:
    """Read what torch saved, on the CPU: tensors and plain values only.

    Raises
    ------
    UnavailableError
        The file cannot be read now. For broken files, one of `BROKEN_ERRORS` is raised.
    """
    with opened(path) as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints in a folder; none if there is no folder.

    Raises
    ------
    UnavailableError
        The folder cannot be read now.
    """
    try:
        with reading(folder):
            return [path for path in folder.iterdir() if path.suffix == ".ckpt"]
    except FileNotFoundError:
        return []


def export_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint atomically, without the state that is only needed to resume training.

    Raises
    ------
    InputError
        Weights are not finite.
    UnavailableError
        The checkpoint cannot be read now.
    """
    checkpoint = read_checkpoint(source)
    if name := first_nonfinite(checkpoint["state_dict"]):
        raise InputError(
            f"the training's checkpoint {source} has weights that are not finite (NaN or "
            f"infinity), first in {name}: lower `learning_rate`, raise `scheduler.warmup_steps`, "
            "or set `precision: 32`"
        )
    for key in RESUME_KEYS:
        checkpoint.pop(key, None)
    write_checkpoint(checkpoint, target)


def load_checkpoint(path: Path) -> SegmentationTask:
    """Load the trained network of a checkpoint, in evaluation mode, on the CPU.

    Raises
    ------
    InputError
        The file is not a checkpoint of this pipeline, holds code, or has weights that are not
        finite.
    UnavailableError
        It cannot be read now.
    """
    try:
        _check_structure(read_checkpoint(path))
        with opened(path) as file:
            task = SegmentationTask.load_from_checkpoint(
                file, map_location="cpu", weights_only=True
            )
    except BROKEN_ERRORS as error:
        why = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise InputError(
            f"{path} is not a checkpoint of this pipeline ({why}): give the model.ckpt that its "
            "training wrote; it holds tensors and plain settings only"
        ) from error
    if name := first_nonfinite(task.state_dict()):
        raise InputError(
            f"{path} has weights that are not finite (NaN or infinity), first in {name}: its "
            "training diverged; give another checkpoint"
        )
    return task.eval()


def _check_structure(content: Any) -> None:
    """Check that a file has the parts of a checkpoint, on which Lightning relies.

    Raises
    ------
    ValueError
        A part is missing or of another kind.
    """
    parts = ("state_dict", "hyper_parameters")
    if not isinstance(content, Mapping) or not all(
        isinstance(content.get(part), Mapping) for part in parts
    ):
        raise ValueError(f"it does not hold {' and '.join(parts)}")
    for name, value in content["state_dict"].items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"state_dict: {ascii(name)[:80]} is no name of a tensor")
        if value.is_complex():
            raise ValueError(f"state_dict: {name[:80]} has complex numbers")


def predicting_checkpoints(checkpoint: Path, inference: Inference) -> list[Path]:
    """List the checkpoints to predict with; parameters are those of `load_networks`.

    Raises
    ------
    InputError
        The training has fewer checkpoints.
    """
    kept = checkpoint.parent / "training" / "checkpoints"
    if inference.checkpoint == "last":
        return [kept / "last.ckpt"]
    if inference.checkpoints == 1:
        return [checkpoint]
    return best_checkpoints(kept, inference.checkpoints)


def load_networks(
    checkpoint: Path, inference: Inference, expected: Mapping[str, Any]
) -> list[SegmentationTask]:
    """Load the networks to predict with; their probabilities are to be averaged.

    Parameters
    ----------
    checkpoint
        `model.ckpt` of a training, or the file that `inference.checkpoint` names.
    inference
        Settings of the prediction: `checkpoint` can select the training's `last` checkpoint, and
        `checkpoints` the number of its best ones. Both are read from `training/checkpoints` in the
        folder of `checkpoint`.
    expected
        `classes`, `voxel_size`, `targets` and `normalize` of the training's file.

    Raises
    ------
    InputError
        A file is missing or not a checkpoint, or a network predicts other classes or channels, or
        at another voxel size.
    """
    paths = predicting_checkpoints(checkpoint, inference)
    tasks = [load_checkpoint(path) for path in paths]
    for path, task in zip(paths, tasks, strict=True):
        check_matches(path, task, expected)
        own = task.training_settings
        try:
            # It may predict affinities that the training's file does not list.
            check_symmetries(own.targets, own.voxel_size, inference.symmetries)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
    return tasks


def best_checkpoints(folder: Path, number: int) -> list[Path]:
    """Find the `number` checkpoints with the best validation Dice, by names `{epoch}-{dice}`.

    Raises
    ------
    InputError
        There are fewer checkpoints.
    """
    scored = []
    for path in list_checkpoints(folder):
        epoch, separator, dice = path.stem.partition("-")
        if separator:
            scored.append((-float(dice), int(epoch), path))
    if len(scored) < number:
        raise InputError(
            f"inference.checkpoints: {number} are requested, but {folder} holds {len(scored)}: "
            "set it to no more than that, or train longer"
        )
    return [path for *_, path in sorted(scored)[:number]]


def check_matches(path: Path, task: SegmentationTask, expected: Mapping[str, Any]) -> None:
    """Check that a network predicts what the training's file says.

    Raises
    ------
    InputError
        The network lacks channels, or was trained at another voxel size or with raw normalized in
        another way.
    """
    own = task.training_settings
    required = channels_of_settings(expected)
    missing = [channel for channel in required if channel not in task.channels]
    if missing:
        raise InputError(
            f"{path} does not predict {', '.join(missing)} of the training's `classes` and "
            f"`targets`, but {', '.join(task.channels)}: set them to what it predicts, or give "
            "another checkpoint"
        )
    if list(own.voxel_size) != list(expected["voxel_size"]):
        raise InputError(
            f"{path} was trained at {list(own.voxel_size)} nm, but the training's `voxel_size` is "
            f"{list(expected['voxel_size'])}: set it to that, or give another checkpoint"
        )
    if own.normalize != expected["normalize"]:
        raise InputError(
            f"{path} was trained with `normalize: {own.normalize}`, but the training's `normalize` "
            f"is {expected['normalize']}: set it to that, or give another checkpoint"
        )
