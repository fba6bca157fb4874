"""In how many bits a network computes on this machine."""

from __future__ import annotations

from typing import Any

import torch


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
