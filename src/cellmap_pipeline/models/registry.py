"""The table of networks by name, and the decorator that adds to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

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
        whose output is as `cellmap_pipeline.models.build.build_model` says.
    options : dict
        Option to (annotation, default).
    stride : callable
        From all options to the factor between the input's and the coarsest level's voxels, along
        each axis.
    fixed_size : bool
        Whether the network takes patches of the one size that it was built for.
    """

    build: Callable[..., Module]
    options: Mapping[str, tuple[Any, Any]]
    stride: Callable[[Mapping[str, Any]], int]
    fixed_size: bool


_REGISTRY: dict[str, Architecture] = {}


def architecture(
    name: str, stride: int | Callable[[Mapping[str, Any]], int], fixed_size: bool = False
) -> Callable[[Callable[..., Module]], Callable[..., Module]]:
    """Register the function below as the builder of `name`; see `Architecture`."""

    def register(build: Callable[..., Module]) -> Callable[..., Module]:
        arguments = inspect.signature(build).parameters.values()
        names = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
        hints = get_type_hints(build, localns={"Module": object})
        options = {option: (hints[option], default) for option, default in names.items()}
        of_options = stride if callable(stride) else (lambda _options: stride)
        _REGISTRY[name] = Architecture(build, options, of_options, fixed_size)
        return build

    return register
