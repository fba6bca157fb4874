"""Sums of the windows of a layer where the network runs, and their way from there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.geometry import Shape


class RowSums:
    """Sums (c, z, y, x) of windows that come row by row along y, int16 that stand for uint16.

    Where windows overlap in y and x they are summed here, so that each voxel leaves the device
    once, not once for each window over it.

    Parameters
    ----------
    channels : number of them.
    window : voxels.
    starts : where windows begin along x, in order.
    device : where the windows' values are.
    """

    def __init__(
        self, channels: int, window: Shape, starts: Sequence[int], device: torch.device
    ) -> None:
        self._first, self._width = starts[0], window[2]
        shape = (channels, window[0], window[1], starts[-1] - starts[0] + window[2])
        self._sums = torch.zeros(shape, dtype=torch.int16, device=device)

    def add(self, x: int, values: Tensor) -> None:
        """Add a window's values (c, z, y, x) that begin at `x`, at the present place in y."""
        start = x - self._first
        self._sums[..., start : start + self._width] += values

    def advance(self, rows: int) -> Transfer:
        """Move on by so many voxels along y, and take the sums (c, z, rows, x) before them."""
        done = Transfer(self._sums[:, :, :rows])
        kept = self._sums.shape[2] - rows
        self._sums = self._sums.roll(-rows, 2)
        self._sums[:, :, kept:] = 0
        return done


class Transfer:
    """A tensor on its way to the processor, while the GPU goes on."""

    def __init__(self, values: Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        if values.device.type == "cpu":
            self._host = values.clone()
            return
        # Of fixed memory, else the copy would make the GPU wait; in one piece first.
        values = values.contiguous()
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._host.copy_(values, non_blocking=True)
        self._ready = torch.cuda.Event()
        self._ready.record()

    def numpy(self) -> NDArray[np.uint16]:
        """The values, when they have arrived."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._host.numpy().view(np.uint16)
