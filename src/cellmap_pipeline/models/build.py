"""Build networks by name, and check a training's `model` and `patch_size`.

The functions in `networks` determine which options are allowed. Nothing here imports torch, since
Snakemake imports this module while parsing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import cellmap_pipeline.models.networks  # noqa: F401 - it fills the registry
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.models.registry import (
    ARCHITECTURES,
    FAMILIES,
    Architecture,
    architecture_names,
    builtin,
    check_options,
)

if TYPE_CHECKING:
    from torch.nn import Module


def find_architecture(name: str) -> Architecture:
    """Find an architecture by name; a library's is `FAMILY:NAME`, such as `pytc:rsunet`.

    Raises
    ------
    InputError
        There is no such architecture.
    """
    family, _, member = name.partition(":")
    if family in FAMILIES and member not in ("", "NAME"):
        found = FAMILIES[family]
        return replace(found, build=functools.partial(found.build, member))
    if name not in ARCHITECTURES:
        raise InputError(
            f"model: there is no architecture {name!r}; choose one of "
            f"{', '.join(architecture_names())}"
        )
    return ARCHITECTURES[name]


def check_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Check a training's `model`, and add the defaults of omitted options.

    Parameters
    ----------
    model
        `architecture` and any of its options, as read from YAML.

    Returns
    -------
    `architecture` and all options in the order of the builder's signature, JSON-serializable; equal
    for models that mean the same.

    Raises
    ------
    InputError
        The architecture is missing or unknown, an option is unknown, or a value is not allowed.
    """
    name = model.get("architecture")
    if not isinstance(name, str):
        names = ", ".join(architecture_names())
        raise InputError(f"model: architecture must be one of {names}, not {name!r}")
    options = find_architecture(name).options
    values = {key: value for key, value in model.items() if key != "architecture"}
    check_options("model", name, options, values)
    return {"architecture": name} | {
        key: builtin(values.get(key, option.default)) for key, option in options.items()
    }


def check_patch_size(
    model: Mapping[str, Any],
    patch_size: Sequence[int],
    voxel_size: Sequence[float],
    key: str = "patch_size",
) -> None:
    """Check that a network can be trained on patches of this size.

    The patch must be a multiple of the stride and have more than one voxel at the coarsest level: a
    single voxel cannot be normalized over space, and training would fail.

    Parameters
    ----------
    model
        As for `check_model`.
    patch_size
        Voxels along z, y, x.
    voxel_size
        Size of a voxel, nm.
    key
        Name of the patch size in messages.

    Raises
    ------
    InputError
        The size is not allowed; the message names the nearest sizes that are.
    """
    stride = total_stride(model, patch_size, voxel_size, key)
    if not _fits(patch_size, stride):
        # The stride of a smaller patch may differ.
        nearest = [
            size
            for size in _nearest(patch_size, stride)
            if _fits(size, total_stride(model, size, voxel_size, key))
        ]
        raise InputError(f"{key}: {_unsuitable(model, patch_size, stride, nearest)}")


def check_window(
    model: Mapping[str, Any],
    window: Sequence[int],
    patch_size: Sequence[int],
    voxel_size: Sequence[float],
    key: str = "window",
) -> None:
    """Check that a network trained on `patch_size` can predict in windows of another size.

    Parameters
    ----------
    model
        As for `check_model`.
    window
        Voxels along z, y, x.
    patch_size
        Patch size of the training.
    voxel_size
        Size of a voxel, nm.
    key
        Name of the window in messages.

    Raises
    ------
    InputError
        The window is not a multiple of the stride, or the network is tied to its patch size.
    """
    stride = total_stride(model, patch_size, voxel_size)
    if not _fits(window, stride):
        nearest = _nearest(window, stride)
        raise InputError(f"{key}: {_unsuitable(model, window, stride, nearest)}")
    if find_architecture(model["architecture"]).fixed_size and list(window) != list(patch_size):
        raise InputError(
            f"{key}: {model['architecture']} takes only patches of the size it is trained on; "
            f"set {key} to {list(patch_size)} instead of {list(window)}"
        )


def check_encoder(model: Mapping[str, Any], key: str) -> None:
    """Check that the weights of a network's encoder can be told from the others.

    Parameters
    ----------
    model
        As for `check_model`.
    key
        The key that asks for the encoder, for the message.

    Raises
    ------
    InputError
        They cannot.
    """
    name = model["architecture"]
    if not find_architecture(name).encoder:
        known = [other for other, found in ARCHITECTURES.items() if found.encoder]
        raise InputError(
            f"{key}: the names of {name}'s weights do not tell its encoder from the rest: leave it "
            f"out, or choose one of {', '.join(known)}"
        )


def total_stride(
    model: Mapping[str, Any],
    patch_size: Sequence[int],
    voxel_size: Sequence[float],
    key: str = "patch_size",
) -> Shape:
    """Return the input voxels (z, y, x) per voxel of the network's coarsest level.

    Parameters
    ----------
    model
        As for `check_model`.
    patch_size
        Voxels along z, y, x of the patches that the network is trained on.
    voxel_size
        Size of a voxel, nm.
    key
        Name of the patch size in messages.

    Raises
    ------
    InputError
        The patch is too small for the network.
    """
    stride = find_architecture(model["architecture"]).stride
    try:
        return stride(check_model(model), patch_size, voxel_size)
    except ValueError as error:
        raise InputError(f"{key}: {list(patch_size)} {error}") from None


def _fits(size: Sequence[int], stride: Shape) -> bool:
    """Whether a size is a multiple of the stride, with more than one voxel at the coarsest level.

    A network of stride 1 takes any size.
    """
    if len(size) != 3 or not all(n > 0 and n % s == 0 for n, s in zip(size, stride, strict=True)):
        return False
    return prod(stride) == 1 or prod(size) > prod(stride)


def _nearest(size: Sequence[int], stride: Shape) -> list[list[int]]:
    """List the nearest sizes that fit, first the smaller one."""
    down = [max(n // s, 1) * s for n, s in zip(size, stride, strict=False)]
    up = [max(-(-n // s), 1) * s for n, s in zip(size, stride, strict=False)]
    if prod(down) <= prod(stride):
        up = [max(n, 2 * s) for n, s in zip(up, stride, strict=False)]
        down = up
    return [down] if down == up else [down, up]


def _unsuitable(
    model: Mapping[str, Any], size: Sequence[int], stride: Shape, nearest: Sequence[list[int]]
) -> str:
    if len({*stride}) == 1:
        needed = f"three multiples of {stride[0]} that are not all {stride[0]}"
    else:
        needed = f"multiples of {list(stride)}"
    return (
        f"{list(size)} does not suit {model['architecture']}, which needs {needed}; the nearest "
        f"are {' and '.join(map(str, nearest))}"
    )


def build_model(
    model: Mapping[str, Any],
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    voxel_size: Vector,
) -> Module:
    """Build the network that `model` describes, with weights drawn from torch's random state.

    Parameters
    ----------
    model
        `architecture` and any of its options.
    in_channels, out_channels
        Channels of the raw patch and of the logits.
    patch_size
        Voxels along z, y, x of the patches that the network is trained on.
    voxel_size
        Size of a voxel, nm.

    Returns
    -------
    A module that takes float tensors (n, in_channels, z, y, x). In eval mode it returns logits of
    shape (n, out_channels, z, y, x). In training mode, a network with deep supervision returns a
    list or tuple of such tensors: the full resolution first, then increasingly coarse ones.

    Raises
    ------
    InputError
        The architecture or an option is unknown, the network cannot be built with a value, or the
        patch size does not suit it.
    """
    complete = check_model(model)
    check_patch_size(complete, patch_size, voxel_size)
    name = complete.pop("architecture")
    build = find_architecture(name).build
    try:
        return build(in_channels, out_channels, patch_size, voxel_size, **complete)
    except InputError:
        raise
    except Exception as error:  # Libraries raise all kinds of exceptions for bad options.
        raise InputError(
            f"model: {name} cannot be built with {complete} for patches of {list(patch_size)} "
            f"({type(error).__name__}: {error}): see docs/configuration.md for its options"
        ) from error
