"""GPUs that seem to have less memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import pytest
import torch

from cellmap_pipeline.prediction.window_sums import RowSums


def limit(more_bytes: float) -> None:
    """Let this process use only that much more memory of the GPU than it does now."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = torch.cuda.memory_reserved() + more_bytes
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))


def peak_of(work: Callable[[], object]) -> int:
    """Do some work; return the bytes of GPU memory that it takes at most."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_reserved() - before


class SmallMemory(torch.nn.Module):
    """For the CPU: a network that runs out of memory for more than `max_windows` windows."""

    def __init__(self, network: torch.nn.Module, max_windows: int) -> None:
        super().__init__()
        self.network, self.max_windows = network, max_windows

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        if len(raw) > self.max_windows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(raw)


def refuse_sums(patch: pytest.MonkeyPatch) -> None:
    """For the CPU: let the allocation of sums on the device fail."""
    zeros = torch.zeros

    def refusing(*shape: object, **options: object) -> torch.Tensor:
        if options.get("dtype") == torch.int16 and "device" in options:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros(*shape, **options)

    patch.setattr(torch, "zeros", refusing)


def free_with_sums(patch: pytest.MonkeyPatch, network: SmallMemory) -> None:
    """For the CPU: give the network memory for all windows once the sums have been moved."""
    warned = RowSums.move_to_host

    def move_to_host(rows: RowSums) -> bool:
        assert not warned(rows)  # They are on the host.
        first = network.max_windows < math.inf
        network.max_windows = math.inf
        return first

    patch.setattr(RowSums, "move_to_host", move_to_host)
