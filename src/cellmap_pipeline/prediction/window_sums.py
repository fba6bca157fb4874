"""Sums of windows over a region of any size, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from operator import iadd
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.geometry import Shape

# What probability 1 is in the sums. Whole numbers, so that the order of the windows, and where a
# run was interrupted or cut into jobs, changes no bit; 256 steps to each of the 255 that are
# stored, with room below 65536 for the rounding of all windows over a voxel.
ONE = 255 * 256
CHUNK: Shape = (32, 64, 64)
TOGETHER = 4  # channels that are added at a time


class Accumulator:
    """Sums (c, z, y, x) of windows, uint16; what does not fit in memory waits in files.

    One thread may add at a time, or several read.

    Parameters
    ----------
    channels
        Number of them.
    scratch
        An empty folder for what does not fit; best on a local disk.
    memory
        Bytes to hold at most (one chunk at least).
    """

    def __init__(self, channels: int, scratch: Path, memory: int) -> None:
        self.channels, self.scratch = channels, scratch
        chunk_bytes = channels * int(np.prod(CHUNK)) * 2
        self._most = max(1, memory // chunk_bytes)
        self._chunks: OrderedDict[Shape, NDArray[np.uint16]] = OrderedDict()
        self._spilled: set[Shape] = set()
        self._lock = Lock()

    def add(self, start: Sequence[int], values: NDArray[np.uint16], helpers: Executor) -> None:
        """Add `values` (c, z, y, x) at voxel `start`."""
        stop = [s + n for s, n in zip(start, values.shape[1:], strict=True)]
        some = [slice(c, c + TOGETHER) for c in range(0, self.channels, TOGETHER)]
        for index, inside, outside in _overlaps(start, stop, start):
            into, what = self._chunk(index)[inside], values[outside]
            # One chunk after the other: none is sent to its file while it is added to.
            for _ in helpers.map(iadd, [into[c] for c in some], [what[c] for c in some]):
                pass

    def read(self, channel: int, low: Shape, high: Shape) -> NDArray[np.uint16]:
        """The sums of one channel in the box low..high, (z, y, x)."""
        result = np.zeros([b - a for a, b in zip(low, high, strict=True)], np.uint16)
        for index, inside, outside in _overlaps(low, high, low):
            with self._lock:
                there = index in self._chunks or index in self._spilled
                chunk = self._chunk(index) if there else None
            if chunk is not None:
                result[outside[1:]] = chunk[channel][inside[1:]]
        return result

    def forget_below(self, plane: int) -> None:
        """Free what lies in planes of the region below `plane`, as far as whole chunks do."""
        for index in [*self._chunks, *self._spilled]:
            if (index[0] + 1) * CHUNK[0] <= plane:
                self._chunks.pop(index, None)
                if index in self._spilled:
                    self._spilled.remove(index)
                    self._file(index).unlink()

    def _chunk(self, index: Shape) -> NDArray[np.uint16]:
        if index in self._chunks:
            self._chunks.move_to_end(index)
            return self._chunks[index]
        while len(self._chunks) >= self._most:
            oldest, values = self._chunks.popitem(last=False)
            values.tofile(self._file(oldest))
            self._spilled.add(oldest)
        shape = (self.channels, *CHUNK)
        if index in self._spilled:
            chunk = np.fromfile(self._file(index), np.uint16).reshape(shape)
        else:
            chunk = np.zeros(shape, np.uint16)
        self._chunks[index] = chunk
        return chunk

    def _file(self, index: Shape) -> Path:
        return self.scratch / "-".join(map(str, index))


def _overlaps(
    low: Sequence[int], high: Sequence[int], origin: Sequence[int]
) -> Iterator[tuple[Shape, tuple[slice, ...], tuple[slice, ...]]]:
    """Chunks that the box low..high meets: index, and where in it and in an array at `origin`."""
    first = [a // c for a, c in zip(low, CHUNK, strict=True)]
    count = [-(-b // c) - f for b, c, f in zip(high, CHUNK, first, strict=True)]
    for step in np.ndindex(*(max(0, n) for n in count)):
        z, y, x = (f + i for f, i in zip(first, step, strict=True))
        inside, outside = [slice(None)], [slice(None)]
        for i, c, a, b, o in zip((z, y, x), CHUNK, low, high, origin, strict=True):
            start, stop = max(a, i * c), min(b, (i + 1) * c)
            inside.append(slice(start - i * c, stop - i * c))
            outside.append(slice(start - o, stop - o))
        yield (z, y, x), tuple(inside), tuple(outside)


class RowSums:
    """Sums (c, z, y, x) of windows that come row by row along y, int16 that stand for uint16.

    Where windows overlap in y and x they are summed here, so that each voxel leaves the device
    once, not once for each window over it.

    Parameters
    ----------
    channels
        Number of them.
    window
        Voxels.
    starts
        Where windows begin along x, in order.
    device
        Where the windows' values are.
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
