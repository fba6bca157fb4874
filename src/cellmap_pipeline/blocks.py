"""Volumes that are worked on in blocks, one by one or side by side."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.geometry import Shape, shape_of
from cellmap_pipeline.io.arrays import set_cache_bytes
from cellmap_pipeline.orphans import end_with_parent

# Of the files of scratch volumes, voxels.
CHUNK = 64
# Decoded chunks that a worker keeps: what windows side by side share. More would take the memory
# of several workers, for voxels that are not read again soon.
WORKER_CACHE_BYTES = 1 << 27
T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """The voxels `start` to `stop` of a volume; `index` counts blocks in scan order."""

    index: int
    start: Shape
    stop: Shape

    @property
    def shape(self) -> Shape:
        """Voxels along each axis."""
        return shape_of(b - a for a, b in zip(self.start, self.stop, strict=True))

    def padded(self, halo: Sequence[int], shape: Shape) -> Block:
        """The block with up to `halo` voxels more on all sides, within a volume of `shape`."""
        start = shape_of(max(0, a - h) for a, h in zip(self.start, halo, strict=True))
        stop = shape_of(min(n, b + h) for b, h, n in zip(self.stop, halo, shape, strict=True))
        return Block(self.index, start, stop)

    def within(self, outer: Block) -> tuple[slice, ...]:
        """Where in an array of `outer` this block lies."""
        return tuple(
            slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True)
        )


def cut(shape: Shape, size: int) -> list[Block]:
    """The blocks of at most `size` voxels along each axis that make up a volume."""
    starts = product(*(range(0, n, size) for n in shape))
    return [
        Block(
            i,
            shape_of(start),
            shape_of(min(a + size, n) for a, n in zip(start, shape, strict=True)),
        )
        for i, start in enumerate(starts)
    ]


@dataclass(frozen=True)
class Scratch:
    """A volume (z, y, x) in a temporary folder, which processes read and write by boxes.

    Boxes that are written side by side begin and end at multiples of `CHUNK`, or at the volume's
    end.
    """

    path: Path
    shape: Shape
    dtype: str

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        """The voxels `start` to `stop`; 0 where nothing was written."""
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return self._array()[box].read(order="C").result()

    def write(self, start: Sequence[int], values: NDArray[Any]) -> None:
        """Write a box that begins at `start`."""
        box = tuple(slice(a, a + n) for a, n in zip(start, values.shape, strict=True))
        self._array()[box].write(values).result()

    def _array(self) -> ts.TensorStore:
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{self.path}/"},
            "metadata": {
                "shape": self.shape,
                "chunks": [CHUNK] * 3,
                "dtype": np.dtype(self.dtype).str,
                "compressor": {"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 1},
                "fill_value": 0,
            },
        }
        return ts.open(spec, open=True, create=True).result()


class Workers:
    """Where blocks are worked on: in this process, or in several of their own."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    def run(self, work: Callable[[Block], T], blocks: Sequence[Block], what: str) -> Iterator[T]:
        """Results of `work` for each block, in order, with a progress bar."""
        run = self._pool.map if self._pool else map
        bar = tqdm(run(work, blocks), desc=what, total=len(blocks), unit="block")
        yield from bar


@contextmanager
def workers(number: int) -> Iterator[Workers]:
    """`number` processes; 1 is this one."""
    if number == 1:
        yield Workers(None)
        return
    # Not by a fork of this process: its threads (of tensorstore, say) would be missing there.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(number, mp_context=context, initializer=_begin) as pool:
        yield Workers(pool)


def _begin() -> None:
    """What each process of its own does first."""
    end_with_parent()
    set_cache_bytes(WORKER_CACHE_BYTES)
