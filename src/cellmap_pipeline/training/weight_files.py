"""Weights in files of other programs: where they are, and what their tensors are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.serialization import safe_globals

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training.checkpoints import BROKEN_ERRORS, read_checkpoint

NNUNET_KEY = "network_weights"
# Keys of state dicts in checkpoints: Lightning's, several programs', nnU-Net's, OrgMIM's.
STATE_KEYS = ("state_dict", "model", NNUNET_KEY, "model_weights")
# Prefixes that frameworks add to the names of a network's parameters.
NAME_PREFIXES = ("network.", "module.", "model.", "_orig_mod.")
MAX_PREFIXES = 8
MAX_NAME_CHARACTERS = 80


class UnreadValue:
    """Stands for a value that is no weight, whatever it is made of."""

    def __init__(self, *_parts: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# nnU-Net's checkpoints hold its scores as NumPy's numbers, which torch refuses. These names are
# allowed, but nothing of NumPy is made of them.
NUMPY_VALUES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (UnreadValue, name)
    for name in (
        "numpy.dtype",
        "numpy.ndarray",
        "numpy._core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
    )
]


def read_weights(path: Path) -> Mapping[Any, Any]:
    """Read a checkpoint or a state dict of any program; its tensors and plain values only.

    Raises
    ------
    InputError
        The file is broken, holds code, or is no mapping.
    UnavailableError
        The file cannot be read now.
    """
    try:
        with safe_globals(NUMPY_VALUES):
            content = read_checkpoint(path)
    except BROKEN_ERRORS as error:
        raise InputError(
            f"initial_weights: {path} cannot be read as weights ({_reason(error)}): give a "
            "checkpoint or a state dict saved by torch, of tensors and plain values only"
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"initial_weights: {path} holds no state dict")
    return content


def _reason(error: Exception) -> str:
    """Say why torch cannot read a file; it would advise to run the code in it."""
    if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it refers to code, {shown(code[1])}"
    return " ".join(str(error).splitlines()[:1])


def named_weights(
    content: Mapping[Any, Any], own_names: Collection[str], rename: Mapping[str, str], path: Path
) -> dict[str, Tensor]:
    """Return the tensors of a file by the names that they have in the network.

    Parameters
    ----------
    content
        The file's content, as `read_weights` returns it.
    own_names
        Names of the network's tensors.
    rename
        Names of modules in the file, and the names that take their place.
    path
        Path of the file, for messages.

    Raises
    ------
    InputError
        Two tensors get the same name.
    """
    state = next(
        (content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content
    )
    weights: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            continue
        own = _own_name(name, own_names, rename)
        if own in weights:
            raise InputError(
                f"initial_weights: {path} holds {shown(origins[own])} and {shown(name)}, which "
                f"would both be {shown(own)} of the network: name one of their modules in `rename`"
            )
        weights[own], origins[own] = value, name
    return weights


def _own_name(name: str, own_names: Collection[str], rename: Mapping[str, str]) -> str:
    """Rename a tensor; without a rule for it, remove prefixes until the network has the name."""
    for _ in range(MAX_PREFIXES):
        if (renamed := _renamed(name, rename)) is not None:
            return renamed
        prefix = next((p for p in NAME_PREFIXES if name.startswith(p)), None)
        if name in own_names or prefix is None:
            return name
        name = name.removeprefix(prefix)
    return name


def _renamed(name: str, rename: Mapping[str, str]) -> str | None:
    """Apply the rule of the longest module that holds the tensor; None if there is no rule."""
    for old in sorted(rename, key=len, reverse=True):
        if not old or name == old or name.startswith(f"{old}."):
            rest = name.removeprefix(old).removeprefix(".")
            return ".".join(filter(None, (rename[old], rest)))
    return None


def shown(name: str) -> str:
    """Quote a name from a file, and shorten it."""
    return repr(name[:MAX_NAME_CHARACTERS] + "…" * (len(name) > MAX_NAME_CHARACTERS))
