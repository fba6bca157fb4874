"""Initial weights of a training, from another training or from an external file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellmap_pipeline.channels import output_channels
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.build import build_model
from cellmap_pipeline.training.checkpoints import BROKEN_ERRORS, first_nonfinite, read_checkpoint
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)

# Prefixes that frameworks add to the names of a network's parameters.
NAME_PREFIXES = ("network.", "module.", "model.", "_orig_mod.")


def load_initial_weights(task: SegmentationTask, path: Path) -> None:
    """Load the weights of a file into a new network, as far as they fit.

    From a checkpoint of this pipeline, output channels are copied by name: a class that it does
    not predict keeps its random weights. From a plain state dict, the output layer is copied only
    if the number of channels agrees; their order is assumed to agree, too.

    Parameters
    ----------
    task
        The task with the network; changed in place.
    path
        A checkpoint of this pipeline, or a file with a state dict (at top level or under
        `state_dict` or `model`). It must hold tensors and plain values only.

    Raises
    ------
    InputError
        The file is broken, holds less than half of the network's weights, or some that are not
        finite.
    UnavailableError
        The file cannot be read now.
    """
    content = _read(path)
    source = _without_prefixes(_state_dict(content))
    source_channels = _channels(content)
    own = task.network.state_dict()
    output_axes = _output_axes(task)
    copied = 0
    for name, tensor in own.items():
        other = source.get(name)
        if other is None:
            continue
        if name in output_axes and source_channels is not None:
            axis = output_axes[name]
            copied += _copy_channels(tensor, other, axis, task.channels, source_channels)
        elif other.shape == tensor.shape:
            tensor.copy_(other)
            copied += tensor.numel()
    total = sum(tensor.numel() for tensor in own.values())
    if copied < total / 2:
        raise InputError(
            f"initial_weights: {path} has {copied:,} of this network's {total:,} weights: it "
            f"belongs to another `model` than {task.training_settings.model}"
        )
    if nonfinite := first_nonfinite(own):
        raise InputError(
            f"initial_weights: {path} has weights that are not finite (NaN or infinity), first in "
            f"{nonfinite}: its training diverged; give another file"
        )
    log.info("initial weights from %s: %s of %s", path, f"{copied:,}", f"{total:,}")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = read_checkpoint(path)
    except BROKEN_ERRORS as error:
        why = str(error).splitlines()[:1]
        raise InputError(
            f"initial_weights: {path} cannot be read as weights ({' '.join(why)}): give a "
            "checkpoint or a state dict saved by torch, of tensors and plain values only"
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"initial_weights: {path} holds no state dict")
    return content


def _state_dict(content: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


def _without_prefixes(state: Mapping[str, Any]) -> dict[str, Tensor]:
    plain = {}
    for name, value in state.items():
        while prefix := next((p for p in NAME_PREFIXES if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        if isinstance(value, Tensor):
            plain[name] = value
    return plain


def _channels(content: Mapping[str, Any]) -> list[str] | None:
    """Return the output channels of a checkpoint of this pipeline; None for other files."""
    try:
        settings = content["hyper_parameters"]["settings"]
        return output_channels(settings["classes"], settings["targets"])
    except (KeyError, TypeError):
        return None


def _output_axes(task: SegmentationTask) -> dict[str, int]:
    """Find the axis of output channels, for the tensors that have one, by name.

    The network is built with another number of channels to see which sizes depend on it.
    """
    settings = task.training_settings
    with torch.random.fork_rng(devices=[]):
        other = build_model(
            settings.model, 1, len(task.channels) + 1, settings.patch_size, settings.voxel_size
        )
    sizes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return {
        name: next(
            i for i, (a, b) in enumerate(zip(tensor.shape, sizes[name], strict=True)) if a != b
        )
        for name, tensor in task.network.state_dict().items()
        if tensor.shape != sizes[name]
    }


def _copy_channels(
    tensor: Tensor, source: Tensor, axis: int, channels: list[str], source_channels: list[str]
) -> int:
    """Copy the weights of channels of the same name; return the number of weights copied."""
    shape = list(tensor.shape)
    factor, rest = divmod(shape[axis], len(channels))
    shape[axis] = len(source_channels) * factor
    if rest or list(source.shape) != shape:
        return 0
    copied = 0
    for i, channel in enumerate(channels):
        if channel not in source_channels:
            continue
        into = tensor.narrow(axis, i * factor, factor)
        into.copy_(source.narrow(axis, source_channels.index(channel) * factor, factor))
        copied += into.numel()
    return copied
