"""Networks by name: checks of a training's `model` and `patch_size`, and the building itself.

What is allowed is read off the builders in `networks`, which the import below registers. Nothing
here imports torch, since it runs while Snakemake parses.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.networks import Size

if TYPE_CHECKING:
    from torch.nn import Module

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from cellmap_pipeline.models.registry import _REGISTRY, PYTC, Architecture

if TYPE_CHECKING:
    from torch.nn import Module


def architectures() -> Mapping[str, Architecture]:
    """Every architecture by name."""
    return _REGISTRY


def find_architecture(name: str) -> Architecture:
    """The architecture of that name; `pytc:` and a name is one of PyTorch Connectomics.

    Raises
    ------
    InputError
        When there is none.
    """
    known = architectures()
    prefix, _, foreign = name.partition(":")
    if prefix == "pytc" and foreign not in ("", "NAME"):
        return replace(known[PYTC], build=functools.partial(known[PYTC].build, foreign))
    if name not in known or name == PYTC:
        raise InputError(
            f"model: there is no architecture {name!r}; choose one of {', '.join(known)}"
        )
    return known[name]


def model_options(name: str) -> dict[str, Any]:
    """The options of an architecture with their defaults, sequences as lists.

    Raises
    ------
    InputError
        When there is no such architecture.
    """
    return {key: _builtin(default) for key, (_, default) in find_architecture(name).options.items()}


def check_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A training's `model` with every option in it, in the order of the builder's signature.

    Parameters
    ----------
    model : mapping
        `architecture` and any of its options, as read from YAML.

    Returns
    -------
    dict
        Of builtins alone; the same for two models that mean the same.

    Raises
    ------
    InputError
        For a missing or unknown architecture, an unknown option, or a value that is not allowed.
    """
    name = model.get("architecture")
    if not isinstance(name, str):
        raise InputError(
            f"model: architecture must be one of {', '.join(architectures())}, not {name!r}"
        )
    options = find_architecture(name).options
    given = {key: value for key, value in model.items() if key != "architecture"}
    for key, value in given.items():
        if key not in options:
            known = ", ".join(f"{k} (default {_builtin(d)})" for k, (_, d) in options.items())
            raise InputError(f"model: {name} has no option {key!r}; it has {known}")
        allowed = _allowed(options[key][0])
        if not allowed.test(value):
            raise InputError(f"model: {key} of {name} must be {allowed.words}, not {value!r}")
    return {"architecture": name} | {
        key: _builtin(given.get(key, default)) for key, (_, default) in options.items()
    }


def check_patch_size(
    model: Mapping[str, Any], patch_size: Sequence[int], key: str = "patch_size"
) -> None:
    """See that a network can take a patch: whole strides, more than one voxel at its coarsest.

    A single voxel there can't be normalised over space, and training would stop at it.

    Parameters
    ----------
    model : mapping
        As for `check_model`.
    patch_size : sequence of int
        Voxels along z, y, x.
    key : str
        What the message calls the patch size.

    Raises
    ------
    InputError
        With the nearest sizes that will do.
    """
    stride = total_stride(model)
    if len(patch_size) == 3 and all(n > 0 and n % stride == 0 for n in patch_size):
        if stride == 1 or prod(patch_size) > stride**3:
            return
        down, up = [2 * stride] * 3, [2 * stride] * 3
    else:
        down = [max(n // stride, 1) * stride for n in patch_size]
        up = [max(-(-n // stride), 1) * stride for n in patch_size]
        if prod(down) <= stride**3:
            down = up = [max(n, 2 * stride) for n in up]
    nearest = f"{down}" if down == up else f"{down} and {up}"
    raise InputError(
        f"{key}: {list(patch_size)} does not suit {model['architecture']}, which needs three "
        f"multiples of {stride} that are not all {stride}; the nearest are {nearest}"
    )


def check_window(
    model: Mapping[str, Any], window: Sequence[int], patch_size: Sequence[int], key: str = "window"
) -> None:
    """See that a network trained on `patch_size` can predict in windows of that size.

    Raises
    ------
    InputError
        When it can't: the window has no whole strides, or the network is tied to its patch size.
    """
    check_patch_size(model, window, key)
    if find_architecture(model["architecture"]).fixed_size and list(window) != list(patch_size):
        raise InputError(
            f"{key}: {model['architecture']} takes only patches of the size it is trained on; "
            f"set {key} to {list(patch_size)} instead of {list(window)}"
        )


def total_stride(model: Mapping[str, Any]) -> int:
    """Voxels of the input per voxel of the network's coarsest level, along each axis."""
    return find_architecture(model["architecture"]).stride(check_model(model))


@dataclass(frozen=True)
class _Allowed:
    words: str
    test: Callable[[Any], bool]


def _allowed(annotation: Any) -> _Allowed:
    """What values an option of this annotation takes.

    Whole numbers are counts of something, so positive; fractions are rates, from 0 to below 1.
    """
    if get_origin(annotation) is Literal:
        values = get_args(annotation)
        return _Allowed(
            f"one of {', '.join(map(str, values))}",
            lambda v: v in values and type(v) is type(values[0]),
        )
    if get_origin(annotation) is tuple:
        length = None if Ellipsis in get_args(annotation) else len(get_args(annotation))
        return _Allowed(
            f"a list of {length or 'at least two'} positive whole numbers",
            lambda v: (
                isinstance(v, list | tuple)
                and (len(v) == length if length else len(v) > 1)
                and all(map(_is_count, v))
            ),
        )
    if annotation is bool:
        return _Allowed("true or false", lambda v: isinstance(v, bool))
    if annotation is int:
        return _Allowed("a positive whole number", _is_count)
    if annotation is float:
        return _Allowed(
            "a number from 0 to below 1",
            lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < 1,
        )
    if get_origin(annotation) is dict:
        return _Allowed("a mapping", lambda v: isinstance(v, dict))
    raise TypeError(f"options annotated {annotation} can't be checked")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _builtin(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def build_model(
    model: Mapping[str, Any], in_channels: int, out_channels: int, patch_size: Size
) -> "Module":
    """The network that `model` describes, with fresh weights from torch's random state.

    Parameters
    ----------
    model : mapping
        `architecture` and any of its options.
    in_channels, out_channels : int
        Channels of the raw patch and of the logits.
    patch_size : tuple of int
        Voxels along z, y, x that it is trained on.

    Returns
    -------
    torch.nn.Module
        Takes float tensors (n, in_channels, z, y, x). In eval mode it returns logits of shape
        (n, out_channels, z, y, x). In training mode a network with deep supervision returns a
        list or tuple of such tensors: the full resolution first, then ever coarser ones.

    Raises
    ------
    InputError
        For an unknown architecture or option, a value that the network can't be built with, or a
        patch size that does not suit it.
    """
    complete = check_model(model)
    check_patch_size(complete, patch_size)
    name = complete.pop("architecture")
    build = find_architecture(name).build
    try:
        return build(in_channels, out_channels, patch_size, **complete)
    except InputError:
        raise
    except Exception as error:  # Whatever a library has against its options.
        raise InputError(
            f"model: {name} can't be built with {complete} for patches of {list(patch_size)} "
            f"({type(error).__name__}: {error}): see docs/configuration.md for its options"
        ) from error
