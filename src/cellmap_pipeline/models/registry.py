"""Registries of networks and losses: functions by name, whose keyword-only arguments are options.

The annotations of these arguments define which values are allowed, their defaults are the options'
defaults. Nothing here imports torch, since configurations are checked while Snakemake parses.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def whole_number(value: Any) -> Any:
    """Refuse 3.0 instead of 3, which Python considers equal."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("should be a whole number")
    return value


# Types of options; strict, since YAML tells numbers, booleans and text apart.
Count = Annotated[int, Field(gt=0, strict=True)]
Fraction = Annotated[float, Field(ge=0, lt=1, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
Levels = Annotated[tuple[Count, ...], Field(min_length=2)]
# Returns the input voxels (z, y, x) per voxel of the coarsest level, of a network's options, the
# patch size (voxels) and the voxel size (nm); raises ValueError for patches that are too small.
StrideRule = Callable[[Mapping[str, Any], Sequence[int], Sequence[float]], Shape]


@dataclass(frozen=True)
class Option:
    """An option of a network or a loss.

    Attributes
    ----------
    annotation
        Type that pydantic validates.
    default
        Value if the option is left out.
    """

    annotation: Any
    default: Any


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name.

    Attributes
    ----------
    build
        Takes in_channels, out_channels, patch_size, voxel_size and the options; returns a
        `torch.nn.Module` whose output is as described in
        `cellmap_pipeline.models.build.build_model`.
    options
        Options by name.
    stride
        Returns the input voxels per voxel of the coarsest level, along each axis.
    fixed_size
        Whether the network accepts only patches of the size that it was built for.
    encoder
        Names of the submodules that make up the encoder; none if names do not tell.
    """

    build: Callable[..., Module]
    options: Mapping[str, Option]
    stride: StrideRule
    fixed_size: bool = False
    encoder: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loss:
    """A loss that can be used by name.

    Attributes
    ----------
    compute
        Takes logits, targets (both zero where unknown), known (0 or 1), each
        (n, c, z, y, x) float32, weights (c,) and the options; returns a scalar.
    options
        Options by name.
    of_atoms
        Whether it is a loss of the atoms of `hierarchy`: `compute` then takes the logits of atoms
        (n, a, z, y, x) float32, which of them are allowed (bool), known (n, 1, z, y, x) float32 and
        the options.
    """

    compute: Callable[..., Tensor]
    options: Mapping[str, Option]
    of_atoms: bool = False


ARCHITECTURES: dict[str, Architecture] = {}
# By the part of `FAMILY:NAME` before the colon; the builder takes NAME as its first argument.
FAMILIES: dict[str, Architecture] = {}
LOSSES: dict[str, Loss] = {}


def architecture(
    name: str, stride: int | StrideRule, fixed_size: bool = False, encoder: tuple[str, ...] = ()
) -> Callable[[Callable[..., Module]], Callable[..., Module]]:
    """Register the decorated function as the builder of a network; see `Architecture`."""

    def register(build: Callable[..., Module]) -> Callable[..., Module]:
        rule = stride if callable(stride) else _same_stride(stride)
        ARCHITECTURES[name] = Architecture(build, _options_of(build), rule, fixed_size, encoder)
        return build

    return register


def architecture_family(
    family: str, stride: int
) -> Callable[[Callable[..., Module]], Callable[..., Module]]:
    """Register the decorated function as the builder of all networks `FAMILY:NAME`."""

    def register(build: Callable[..., Module]) -> Callable[..., Module]:
        rule = _same_stride(stride)
        FAMILIES[family] = Architecture(build, _options_of(build), rule)
        return build

    return register


def _same_stride(stride: int) -> StrideRule:
    return lambda _options, _patch_size, _voxel_size: (stride, stride, stride)


def architecture_names() -> list[str]:
    """List the names of all architectures; `FAMILY:NAME` for a family."""
    return [*ARCHITECTURES, *(f"{family}:NAME" for family in FAMILIES)]


def loss(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Register the decorated function as a loss under its own name; see `Loss`."""
    LOSSES[compute.__name__] = Loss(compute, _options_of(compute))
    return compute


def atom_loss(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Register the decorated function as a loss of the atoms of `hierarchy`; see `Loss`."""
    LOSSES[compute.__name__] = Loss(compute, _options_of(compute), of_atoms=True)
    return compute


def check_options(
    key: str, name: str, options: Mapping[str, Option], values: Mapping[str, Any]
) -> None:
    """Check options of a network or a loss.

    Parameters
    ----------
    key
        The configuration's key, `model` or `loss`.
    name
        Name of the network or the loss.
    options
        Its options.
    values
        Values by option, as read from YAML.

    Raises
    ------
    InputError
        An option is unknown, or its value is not allowed.
    """
    for option, value in values.items():
        if option not in options:
            known = ", ".join(f"{k} (default {builtin(o.default)})" for k, o in options.items())
            raise InputError(f"{key}: {name} has no option {option!r}; it has {known or 'none'}")
        try:
            TypeAdapter(options[option].annotation).validate_python(value)
        except ValidationError as error:
            problem = _in_terms_of_yaml(error.errors()[0]["msg"])
            raise InputError(f"{key}: {option} of {name} {problem}, not {value!r}") from None


def builtin(value: Any) -> Any:
    """Convert a default to the types that YAML gives: mappings to dict, tuples to list."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _in_terms_of_yaml(message: str) -> str:
    """Rephrase pydantic's message about a value for users who wrote the value in YAML."""
    message = re.sub(r"^(Input |Tuple |Value error, )| after validation.*", "", message)
    return message.replace("valid tuple", "list").replace("valid dictionary", "mapping")


def _options_of(function: Callable[..., Any]) -> dict[str, Option]:
    # Annotations refer to these types of torch, which is not imported here.
    names = {"Module": object, "Tensor": object}
    hints = get_type_hints(function, localns=names, include_extras=True)
    return {
        argument.name: Option(hints[argument.name], argument.default)
        for argument in inspect.signature(function).parameters.values()
        if argument.kind is argument.KEYWORD_ONLY
    }
