"""Copies of tensors to the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to the device, without waiting for the GPU's earlier work.

    Only copies from pinned memory are asynchronous.
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
