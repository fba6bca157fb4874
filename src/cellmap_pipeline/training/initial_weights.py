"""Weights to begin a training with, from another training or from elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from cellmap_pipeline.channels import output_channels
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.build import build_model
from cellmap_pipeline.training.task import SegmentationTask

log = logging.getLogger(__name__)

# What frameworks put before the names of a network's parameters.
PREFIXES = ("network.", "module.", "model.", "_orig_mod.")


def load_initial(task: SegmentationTask, path: Path) -> None:
    """Give a fresh network the weights of a file, as far as they fit.

    From a checkpoint of this pipeline the output channels are taken over by name: a class that
    was not trained there keeps its fresh weights. Of a plain state dict the output layer is taken
    over only where it has as many channels, in the same order then.

    Parameters
    ----------
    task
        With fresh weights; changed in place.
    path
        A checkpoint of this pipeline, or a file of a state dict (also under `state_dict` or
        `model`), which holds tensors and plain values only.

    Raises
    ------
    InputError
        The file cannot be read, or less than half of the network's weights are in it.
    """
    content = _read(path)
    given = _without_prefixes(_state_dict(content))
    theirs = _channels(content)
    own = task.network.state_dict()
    head = _head_tensors(task)
    taken = 0
    for name, tensor in own.items():
        other = given.get(name)
        if other is None:
            continue
        if name in head and theirs is not None:
            taken += _copy_channels(tensor, other, head[name], task.channels, theirs)
        elif other.shape == tensor.shape:
            tensor.copy_(other)
            taken += tensor.numel()
    total = sum(tensor.numel() for tensor in own.values())
    if taken < total / 2:
        raise InputError(
            f"initial_weights: {path} has {taken:,} of this network's {total:,} weights: it "
            f"belongs to another `model` than {task.training_settings.model}"
        )
    log.info("initial weights from %s: %s of %s", path, f"{taken:,}", f"{total:,}")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, UnpicklingError) as error:
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
        while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        if isinstance(value, Tensor):
            plain[name] = value
    return plain


def _channels(content: Mapping[str, Any]) -> list[str] | None:
    """Output channels of a checkpoint of this pipeline; None of other files."""
    try:
        settings = content["hyper_parameters"]["settings"]
        return output_channels(settings["classes"], settings["targets"])
    except (KeyError, TypeError):
        return None


def _head_tensors(task: SegmentationTask) -> dict[str, int]:
    """Names of the tensors whose size hangs on the number of output channels, with that axis.

    Found by building the network with another number of them.
    """
    settings = task.training_settings
    with torch.random.fork_rng(devices=[]):
        other = build_model(settings.model, 1, len(task.channels) + 1, settings.patch_size)
    sizes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return {
        name: next(
            i for i, (a, b) in enumerate(zip(tensor.shape, sizes[name], strict=True)) if a != b
        )
        for name, tensor in task.network.state_dict().items()
        if tensor.shape != sizes[name]
    }


def _copy_channels(
    tensor: Tensor, other: Tensor, axis: int, channels: list[str], theirs: list[str]
) -> int:
    """Copy what belongs to channels of the same name; the number of weights copied."""
    shape = list(tensor.shape)
    factor, rest = divmod(shape[axis], len(channels))
    shape[axis] = len(theirs) * factor
    if rest or list(other.shape) != shape:
        return 0
    copied = 0
    for i, channel in enumerate(channels):
        if channel not in theirs:
            continue
        into = tensor.narrow(axis, i * factor, factor)
        into.copy_(other.narrow(axis, theirs.index(channel) * factor, factor))
        copied += into.numel()
    return copied
