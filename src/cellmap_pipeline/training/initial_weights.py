"""Initial weights of a training, from another training or from an external file."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellmap_pipeline.channels import network_outputs
from cellmap_pipeline.config.auxiliary_targets import channels_of_settings
from cellmap_pipeline.config.sections import InitialWeights
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.build import build_model, find_architecture
from cellmap_pipeline.training.skipping import first_nonfinite
from cellmap_pipeline.training.task import SegmentationTask
from cellmap_pipeline.training.weight_files import NNUNET_KEY, named_weights, read_weights, shown

log = logging.getLogger(__name__)

MAX_NAMES_SHOWN = 3
TAKEN_BY_CHANNEL = "taken by output channel"


@dataclass(frozen=True)
class ChannelAxes:
    """The axes of tensors along which channels lie, and the names of the output channels.

    Attributes
    ----------
    inputs, outputs
        By name of a tensor, its axis of input channels, or of output channels.
    names
        Output channels of the network.
    source_names
        Output channels of the file; None if it does not name them.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    names: Sequence[str]
    source_names: Sequence[str] | None


@dataclass
class Transfer:
    """The weights that were taken from a file.

    Attributes
    ----------
    taken, total
        Number of weights taken, and of weights in the part of the network to be filled.
    events
        By what happened to them, names of tensors.
    """

    taken: int = 0
    total: int = 0
    events: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def load_initial_weights(task: SegmentationTask, initial: InitialWeights) -> None:
    """Load the weights of a file into a new network, as far as they fit.

    From a checkpoint of this pipeline, output channels are copied by name: a class that it does
    not predict keeps its random weights. From one of nnU-Net, no output layer is copied. From other
    files, it is copied only if the number of channels agrees; their order is assumed to agree, too.

    Convolutions of several input channels are summed over them, since raw has one channel: the
    network then responds as the pre-trained one does to the same image in all its channels. With
    their mean, the response would be weaker.

    Parameters
    ----------
    task
        The task with the network; changed in place.
    initial
        The file, and the part of its weights to take. The file is a checkpoint of this pipeline, of
        nnU-Net or of another program (`weight_files.STATE_KEYS`), or a plain state dict, which may
        hold only a part of the network.

    Raises
    ------
    InputError
        The file is broken, holds too few of the network's weights, or some that are not finite.
    UnavailableError
        The file cannot be read now.
    """
    content = read_weights(Path(initial.path))
    tensors = list(_tensors(task))
    own = {name: tensor for tensor, names in tensors for name in names}
    source = named_weights(content, own, initial.rename, Path(initial.path))
    axes = _channel_axes(task, _source_names(content))
    prefixes = _encoder_prefixes(task) if initial.part == "encoder" else ("",)
    transfer = _transfer(tensors, source, axes, prefixes)
    if transfer.taken < initial.at_least * transfer.total:
        raise InputError(
            f"initial_weights: {initial.path} has {transfer.taken:,} of this {_part(initial)}'s "
            f"{transfer.total:,} weights, and at least {100 * initial.at_least:g}% are needed: it "
            f"belongs to another `model` than {task.training_settings.model}, or its names (such "
            f"as {_few(source)}) are others than the network's (such as {_few(own)}): see "
            "`initial_weights.rename`"
        )
    if nonfinite := first_nonfinite(own):
        raise InputError(
            f"initial_weights: {initial.path} has weights that are not finite (NaN or infinity), "
            f"first in {nonfinite}: its training diverged; give another file"
        )
    _log_transfer(initial, transfer, axes)


def output_names(settings: Mapping[str, Any]) -> list[str]:
    """Names of the outputs of a network, of the settings in its checkpoint."""
    channels = channels_of_settings(settings)
    return network_outputs(channels, settings.get("hierarchy") or [])


def _tensors(task: SegmentationTask) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield the network's tensors, each with all its names: modules may share one."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for name, tensor in task.network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor.detach()
    return ((tensors[key], names[key]) for key in names)


def _source_names(content: Mapping[Any, Any]) -> list[str] | None:
    """Return the output channels of a file; None if it does not name them.

    The channels of nnU-Net's checkpoints, of which the first is the background, are none of ours.
    """
    if NNUNET_KEY in content:
        return []
    try:
        return output_names(content["hyper_parameters"]["settings"])
    except (KeyError, TypeError, AttributeError):
        return None


def _encoder_prefixes(task: SegmentationTask) -> tuple[str, ...]:
    modules = find_architecture(task.training_settings.model["architecture"]).encoder
    return tuple(f"{module}." for module in modules)


def _channel_axes(task: SegmentationTask, source_names: Sequence[str] | None) -> ChannelAxes:
    names = output_names(task.hparams["settings"])
    return ChannelAxes(
        inputs=changed_axes(task, in_channels=2, out_channels=len(names)),
        outputs=changed_axes(task, in_channels=1, out_channels=len(names) + 1),
        names=names,
        source_names=source_names,
    )


def changed_axes(task: SegmentationTask, in_channels: int, out_channels: int) -> dict[str, int]:
    """Find the axis of the tensors whose shape depends on the number of channels, by name.

    The network is built with these numbers of channels to see which sizes change.
    """
    settings = task.training_settings
    with torch.random.fork_rng(devices=[]):
        other = build_model(
            settings.model, in_channels, out_channels, settings.patch_size, settings.voxel_size
        )
    sizes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return {
        name: next(
            i for i, (a, b) in enumerate(zip(tensor.shape, sizes[name], strict=True)) if a != b
        )
        for name, tensor in task.network.state_dict().items()
        if tensor.shape != sizes[name]
    }


def _transfer(
    tensors: Sequence[tuple[Tensor, list[str]]],
    source: Mapping[str, Tensor],
    axes: ChannelAxes,
    prefixes: tuple[str, ...],
) -> Transfer:
    """Copy what fits into the network's tensors whose names begin with one of the prefixes."""
    transfer = Transfer()
    for tensor, names in tensors:
        name = next((name for name in names if name in source), names[0])
        if any(name.startswith(prefixes) for name in names):
            copied, event = _copy(tensor, name, source.get(name), axes)
            transfer.total += tensor.numel()
            transfer.taken += copied
            transfer.events[event].append(name)
        elif name in source:
            transfer.events["not of the encoder"].append(name)
    own = {name for _, names in tensors for name in names}
    transfer.events["not in the network"] = [name for name in source if name not in own]
    return transfer


@torch.no_grad()
def _copy(tensor: Tensor, name: str, other: Tensor | None, axes: ChannelAxes) -> tuple[int, str]:
    """Copy what fits of a tensor of the file; return the number of weights, and what was done."""
    if other is None:
        return 0, "not in the file"
    if not _is_plain(other) or other.is_floating_point() != tensor.is_floating_point():
        return 0, "of another kind of numbers"
    if name in axes.outputs and axes.source_names is not None:
        copied = _copy_channels(tensor, other, axes.outputs[name], axes.names, axes.source_names)
        return copied, TAKEN_BY_CHANNEL if copied else "of other output channels"
    input_axis = axes.inputs.get(name)
    if other.shape == tensor.shape:
        tensor.copy_(other)
        return tensor.numel(), "taken"
    if input_axis is not None and _without(other, input_axis) == _without(tensor, input_axis):
        tensor.copy_(other.sum(input_axis, keepdim=True))
        return tensor.numel(), f"taken, summed over {other.shape[input_axis]} input channels"
    return 0, "of another shape"


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds its values as an array."""
    is_dense = tensor.layout is torch.strided and not tensor.is_nested
    return is_dense and not (tensor.is_meta or tensor.is_quantized)


def _without(tensor: Tensor, axis: int) -> list[int]:
    """Shape of a tensor without an axis, and its number of axes."""
    return [tensor.ndim, *tensor.shape[:axis], *tensor.shape[axis + 1 :]]


def _copy_channels(
    tensor: Tensor,
    source: Tensor,
    axis: int,
    channels: Sequence[str],
    source_channels: Sequence[str],
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


def _part(initial: InitialWeights) -> str:
    return "network" if initial.part == "all" else "encoder"


def _log_transfer(initial: InitialWeights, transfer: Transfer, axes: ChannelAxes) -> None:
    log.info(
        "initial weights from %s: %s of the %s's %s",
        initial.path, f"{transfer.taken:,}", _part(initial), f"{transfer.total:,}",
    )  # fmt: skip
    for event, names in transfer.events.items():
        if names:
            log.info("initial weights: %d tensors %s: %s", len(names), event, _few(names))
    if axes.source_names and transfer.events.get(TAKEN_BY_CHANNEL):
        new = [channel for channel in axes.names if channel not in axes.source_names]
        log.info("initial weights: output channels that start anew: %s", ", ".join(new) or "none")


def _few(names: Sequence[str] | Mapping[str, Any]) -> str:
    """List the first names, quoted and shortened."""
    listed = [shown(name) for name in list(names)[:MAX_NAMES_SHOWN]]
    return ", ".join(listed) + (", …" if len(names) > MAX_NAMES_SHOWN else "") or "none"
