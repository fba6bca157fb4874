"""The registry of networks, and the checks of a training's `model` and `patch_size` against it.

What is allowed is read off the builders in `models`. Nothing here imports torch, since it runs
while Snakemake parses.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from cellmap_pipeline.errors import InputError

if TYPE_CHECKING:
    from torch.nn import Module

# Stands in the registry for whatever PyTorch Connectomics has.
PYTC = "pytc:NAME"


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name.

    Attributes
    ----------
    build : callable
        Takes in_channels, out_channels, patch_size and the options; returns a `torch.nn.Module`
        whose output is as `cellmap_pipeline.models.build_model` says.
    options : dict
        Option to (annotation, default).
    stride : callable
        From all options to the factor between the input's and the coarsest level's voxels, along
        each axis.
    fixed_size : bool
        Whether the network takes patches of the one size that it was built for.
    """

    build: Callable[..., "Module"]
    options: Mapping[str, tuple[Any, Any]]
    stride: Callable[[Mapping[str, Any]], int]
    fixed_size: bool


_REGISTRY: dict[str, Architecture] = {}


def architecture(
    name: str, stride: int | Callable[[Mapping[str, Any]], int], fixed_size: bool = False
) -> Callable[[Callable[..., "Module"]], Callable[..., "Module"]]:
    """Register the function below as the builder of `name`; see `Architecture`."""

    def register(build: Callable[..., "Module"]) -> Callable[..., "Module"]:
        arguments = inspect.signature(build).parameters.values()
        names = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
        hints = get_type_hints(build, localns={"Module": object})
        options = {option: (hints[option], default) for option, default in names.items()}
        of_options = stride if callable(stride) else (lambda _options: stride)
        _REGISTRY[name] = Architecture(build, options, of_options, fixed_size)
        return build

    return register


def architectures() -> Mapping[str, Architecture]:
    """Every architecture by name."""
    # Registers them; not at the top, since it imports this module.
    from cellmap_pipeline import models  # noqa: F401

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
