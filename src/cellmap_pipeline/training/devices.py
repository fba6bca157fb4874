"""Available GPUs, and the floating-point precision of networks on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from cellmap_pipeline.errors import InputError

# NVIDIA's driver creates its device files in this folder.
DEVICE_FOLDER = Path("/dev")


def resolve_precision(precision: str) -> Any:
    """Return Lightning's name for a training's `precision` on this machine.

    `mixed` is bfloat16 if the GPU supports it natively, else float16. Without a GPU, all mixed
    precisions are 32 bits: torch 2.13's bfloat16 gradients of 3D convolutions read uninitialized
    memory on CPUs, where a level of the network has fewer planes than the kernel.
    """
    if precision == "32" or not torch.cuda.is_available():
        return "32"
    if precision == "mixed":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if supported else "16-mixed"
    return precision


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context for prediction: on a GPU, the precision of the training.

    On a CPU, 32 bits cost little more, and give the same result on every machine.
    """
    types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = types.get(resolve_precision(precision)) if device.type == "cuda" else None
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def check_gpus(requested: int) -> None:
    """Check that `requested` GPUs are available; on a machine without any, CPUs do.

    Raises
    ------
    InputError
        There are fewer GPUs, or torch can use none of them.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    found = sorted(DEVICE_FOLDER.glob("nvidia[0-9]*"))
    if not available and found and not hidden:
        raise InputError(
            f"devices: this machine has a GPU ({found[0]}), but torch {torch.__version__} cannot "
            "use it: update its driver (nvidia-smi shows it), or set CUDA_VISIBLE_DEVICES=-1 to "
            "train on the CPU, which takes far longer"
        )
    if 0 < available < requested:
        raise InputError(
            f"devices: {requested} GPUs are requested, but this machine has {available}: lower it, "
            "or train on a machine with more (docs/cluster.md)"
        )
