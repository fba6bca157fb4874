"""Networks of PyTorch Connectomics, if it is installed.

Written against its version 2.0 (https://github.com/PytorchConnectomics/pytorch_connectomics):
`connectomics.models.build.build_model` takes an object whose `model` is a
`connectomics.config.ModelConfig`, and a network with deep supervision returns a dictionary with
`output` at full resolution and `ds_1`, `ds_2`... in an order that differs by network.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch

from cellmap_pipeline.errors import InputError

_INSTALL = "pip install git+https://github.com/PytorchConnectomics/pytorch_connectomics"


def build_pytc(
    name: str,
    in_channels: int,
    out_channels: int,
    patch_size: tuple[int, int, int],
    deep_supervision: bool,
    settings: Mapping[str, Any],
) -> torch.nn.Module:
    """Build a network of PyTorch Connectomics with the outputs that `build.build_model` specifies.

    Parameters
    ----------
    name
        Name in PyTorch Connectomics, such as `rsunet`.
    in_channels, out_channels
        Channels of the raw patch and of the logits.
    patch_size
        Voxels along z, y, x.
    deep_supervision
        Whether the network also returns coarser logits in training.
    settings
        Keys below `model` of a PyTorch Connectomics configuration, such as
        `{"rsunet": {"width": [16, 32, 64]}}`.

    Raises
    ------
    InputError
        The package is absent, is Google's of the same name, lacks a dependency, or cannot build the
        network.
    """
    if find_spec("connectomics") is None:
        raise InputError(f"model: pytc:{name} needs PyTorch Connectomics; {_INSTALL}")
    if find_spec("connectomics.models") is None:
        raise InputError(
            f"model: pytc:{name} needs PyTorch Connectomics, but the `connectomics` that is "
            "installed is another package (Google's); pip uninstall connectomics, then "
            f"{_INSTALL}"
        )
    try:
        from connectomics.config import ModelConfig
        from connectomics.models.build import build_model
    except ImportError as error:
        raise InputError(
            f"model: pytc:{name}: PyTorch Connectomics is installed but cannot be imported "
            f"({error}); install it with its dependencies: {_INSTALL}"
        ) from error

    config = ModelConfig(
        in_channels=in_channels,
        out_channels=out_channels,
        input_size=list(patch_size),
        output_size=list(patch_size),
    )
    config.arch.type = name
    config.loss.deep_supervision = deep_supervision
    _apply(config, settings, f"model: settings of pytc:{name}")
    try:
        return FullResolutionFirst(build_model(SimpleNamespace(model=config)))
    except (ImportError, TypeError, ValueError) as error:
        raise InputError(f"model: PyTorch Connectomics can't build pytc:{name}: {error}") from error


def _apply(config: Any, settings: Mapping[str, Any], where: str) -> None:
    """Set the attributes of nested dataclasses, and raise InputError for unknown keys."""
    for key, value in settings.items():
        if key not in vars(config):
            raise InputError(f"{where} has no key {key!r}; known: {', '.join(vars(config))}")
        if is_dataclass(getattr(config, key)) and isinstance(value, Mapping):
            _apply(getattr(config, key), value, f"{where}.{key}")
        else:
            setattr(config, key, value)


class FullResolutionFirst(torch.nn.Module):
    """Converts the dictionary of a network with deep supervision to a list, from full to coarse."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits; in training with deep supervision, a list from full to coarse."""
        logits: torch.Tensor | dict[str, torch.Tensor] = self.network(x)
        if isinstance(logits, torch.Tensor):
            return logits
        if not self.training:
            return logits["output"]
        coarser = [scale for key, scale in logits.items() if key != "output"]
        return [logits["output"], *sorted(coarser, key=torch.Tensor.numel, reverse=True)]
