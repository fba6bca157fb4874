"""Sums of windows over a region of any size, in bounded memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from operator import iadd
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.geometry import Shape

log = logging.getLogger(__name__)

# Probability 1 in the sums, which are integers: so the result is the same to the bit in any order
# of the windows, and wherever a run was interrupted or split into jobs. Each of the 255 stored
# steps has 256 substeps, and the rest up to 65536 allows for the rounding of all windows over a
# voxel.
PROBABILITY_ONE = 255 * 256
CHUNK_SHAPE: Shape = (32, 64, 64)
CHANNELS_PER_ADDITION = 4
HOST_SUMS_WARNING = (
    "the GPU's memory is too small for the sums of a row of windows: the host's memory holds them, "
    "which is slower; a smaller `inference.window` takes less"
)


class WindowSums:
    """Sums (c, z, y, x) of windows, uint16; chunks that do not fit in memory are kept in files.

    Either one thread may add at a time, or several may read.

    Parameters
    ----------
    channels
        Number of channels.
    scratch
        Empty folder for chunks that do not fit in memory, preferably on a local disk.
    max_bytes
        Maximum memory for chunks (at least one chunk is held).
    """

    def __init__(self, channels: int, scratch: Path, max_bytes: int) -> None:
        self.channels, self.scratch = channels, scratch
        chunk_bytes = channels * int(np.prod(CHUNK_SHAPE)) * 2
        self._max_chunks = max(1, max_bytes // chunk_bytes)
        self._chunks: OrderedDict[Shape, NDArray[np.uint16]] = OrderedDict()
        self._spilled: set[Shape] = set()
        self._lock = Lock()

    def add(self, start: Sequence[int], values: NDArray[np.uint16], helpers: Executor) -> None:
        """Add `values` (c, z, y, x) at voxel `start`."""
        stop = [s + n for s, n in zip(start, values.shape[1:], strict=True)]
        step = CHANNELS_PER_ADDITION
        groups = [slice(c, c + step) for c in range(0, self.channels, step)]
        for index, inside, outside in _overlaps(start, stop, start):
            sums, added = self._chunk(index)[inside], values[outside]
            # Chunk by chunk, so that none is moved to its file while it is added to.
            for _ in helpers.map(iadd, [sums[c] for c in groups], [added[c] for c in groups]):
                pass

    def read(self, channel: int, low: Shape, high: Shape) -> NDArray[np.uint16]:
        """Read the sums (z, y, x) of one channel in the box low..high."""
        result = np.zeros([b - a for a, b in zip(low, high, strict=True)], np.uint16)
        for index, inside, outside in _overlaps(low, high, low):
            with self._lock:
                exists = index in self._chunks or index in self._spilled
                chunk = self._chunk(index) if exists else None
            if chunk is not None:
                result[outside[1:]] = chunk[channel][inside[1:]]
        return result

    def free_below(self, plane: int) -> None:
        """Free the chunks that lie entirely in z planes below `plane`."""
        for index in [*self._chunks, *self._spilled]:
            if (index[0] + 1) * CHUNK_SHAPE[0] <= plane:
                self._chunks.pop(index, None)
                if index in self._spilled:
                    self._spilled.remove(index)
                    self._file(index).unlink()

    def _chunk(self, index: Shape) -> NDArray[np.uint16]:
        if index in self._chunks:
            self._chunks.move_to_end(index)
            return self._chunks[index]
        while len(self._chunks) >= self._max_chunks:
            oldest, values = self._chunks.popitem(last=False)
            values.tofile(self._file(oldest))
            self._spilled.add(oldest)
        shape = (self.channels, *CHUNK_SHAPE)
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
    """Yield chunks that overlap the box low..high.

    Yields
    ------
    Index of the chunk, and slices of the overlap in the chunk and in an array at `origin`.
    """
    first = [a // c for a, c in zip(low, CHUNK_SHAPE, strict=True)]
    count = [-(-b // c) - f for b, c, f in zip(high, CHUNK_SHAPE, first, strict=True)]
    for step in np.ndindex(*(max(0, n) for n in count)):
        z, y, x = (f + i for f, i in zip(first, step, strict=True))
        inside, outside = [slice(None)], [slice(None)]
        for i, c, a, b, o in zip((z, y, x), CHUNK_SHAPE, low, high, origin, strict=True):
            start, stop = max(a, i * c), min(b, (i + 1) * c)
            inside.append(slice(start - i * c, stop - i * c))
            outside.append(slice(start - o, stop - o))
        yield (z, y, x), tuple(inside), tuple(outside)


class RowSums:
    """Sums (c, z, y, x) of windows that are added row by row along y.

    They are int16 that hold the bits of uint16. Overlaps in y and x are summed on the device, so
    that each voxel is copied from it once, not once per window. If the GPU's memory is too small
    for them, the host's memory holds them.

    Parameters
    ----------
    channels
        Number of channels.
    window
        Shape of a window, in voxels.
    starts
        Starts of the windows along x, in order.
    device
        Device that computes the windows, and holds the sums if its memory suffices.
    """

    def __init__(
        self, channels: int, window: Shape, starts: Sequence[int], device: torch.device
    ) -> None:
        self._first, self._width = starts[0], window[2]
        shape = (channels, window[0], window[1], starts[-1] - starts[0] + window[2])
        try:
            self._sums = torch.zeros(shape, dtype=torch.int16, device=device)
        except torch.OutOfMemoryError:
            self._sums = torch.zeros(shape, dtype=torch.int16)
            log.warning(HOST_SUMS_WARNING)

    def move_to_host(self) -> bool:
        """Move the sums to the host's memory; return whether that frees memory of a GPU."""
        if self._sums.device.type == "cpu":
            return False
        self._sums = self._sums.cpu()
        log.warning(HOST_SUMS_WARNING)
        return True

    def add(self, x: int, values: Tensor) -> None:
        """Add the values (c, z, y, x) of a window at `x`, at the current position in y."""
        start = x - self._first
        self._sums[..., start : start + self._width] += values.to(self._sums.device)

    def advance(self, rows: int) -> HostTransfer:
        """Advance along y by `rows` voxels; return the sums (c, z, rows, x) passed over."""
        try:
            done = HostTransfer(self._sums[:, :, :rows])
        except torch.OutOfMemoryError:
            self.move_to_host()
            done = HostTransfer(self._sums[:, :, :rows])
        # Channel by channel, so that the copies take little memory.
        for channel in range(len(self._sums)):
            try:
                self._shift(channel, rows)
            except torch.OutOfMemoryError:  # Of the copy, so the channel is as it was.
                self.move_to_host()
                self._shift(channel, rows)
        self._sums[:, :, -rows:] = 0
        return done

    def _shift(self, channel: int, rows: int) -> None:
        sums = self._sums[channel]
        sums[:, : sums.shape[1] - rows] = sums[:, rows:].clone()


class HostTransfer:
    """An asynchronous copy of a tensor of at least one axis to the host."""

    def __init__(self, values: Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        if values.device.type == "cpu":
            self._host = values.clone()
            return
        # Copy into pinned memory so that the transfer is asynchronous. What is copied must be
        # contiguous: other tensors are copied part by part, which takes little memory.
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pairs = zip(self._host, values, strict=True)
        for host, part in [(self._host, values)] if values.is_contiguous() else pairs:
            host.copy_(part.contiguous(), non_blocking=True)
        self._ready = torch.cuda.Event()
        self._ready.record()

    def numpy(self) -> NDArray[Any]:
        """Wait for the copy and return the values."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._host.numpy()


class FiniteWindows:
    """An asynchronous copy of which windows are finite to the host.

    Parameters
    ----------
    finite
        By the start of a window, whether it is finite, a bool tensor of no axes on the device.
    """

    def __init__(self, finite: Mapping[Shape, Tensor]) -> None:
        self._starts = list(finite)
        self._finite = HostTransfer(torch.stack(list(finite.values())))

    def first_nonfinite(self) -> Shape | None:
        """Wait for the copy and return the start of the first window that is not finite, if any."""
        finite = self._finite.numpy()
        return None if finite.all() else self._starts[int(finite.argmin())]
