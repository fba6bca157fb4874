"""GPUs that can train here, and in how many bits a network computes on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from cellmap_pipeline.errors import InputError

# Where NVIDIA's driver puts its devices.
DEVICES = Path("/dev")


def precision(wanted: str) -> Any:
    """What a training's `precision` means on this machine, as Lightning names it.

    `mixed` is bfloat16 where the GPU computes in it, else float16. Without a GPU, all mixed ones
    are bfloat16 where the processor computes in it, else 32 bits.
    """
    if wanted == "32":
        return "32"
    if not torch.cuda.is_available():
        able = torch.cpu.get_capabilities()
        return "bf16-mixed" if able.get("avx512_bf16") or able.get("amx_bf16") else "32"
    if wanted == "mixed":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if able else "16-mixed"
    return wanted


def autocast(wanted: str, device: torch.device) -> torch.autocast:
    """The context in which a network of that `precision` predicts: as it trained, on a GPU.

    On a processor 32 bits cost little more, and the same bits come out on every machine.
    """
    types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    dtype = types.get(precision(wanted)) if device.type == "cuda" else None
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def check_gpus(wanted: int) -> None:
    """See that `wanted` GPUs can train here; where there is none at all, processors do.

    Raises
    ------
    InputError
        There are fewer, or torch can use none of those that are there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    found = sorted(DEVICES.glob("nvidia[0-9]*"))
    if not there and found and not hidden:
        raise InputError(
            f"devices: this machine has a GPU ({found[0]}), but torch {torch.__version__} cannot "
            "use it: bring its driver up to date (nvidia-smi shows it), or set "
            "CUDA_VISIBLE_DEVICES=-1 to train on the processors, which takes far longer"
        )
    if 0 < there < wanted:
        raise InputError(
            f"devices: {wanted} GPUs are asked for, but there are {there} here: lower it, or train "
            "on a machine with more (docs/cluster.md)"
        )
