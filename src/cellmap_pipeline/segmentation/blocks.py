"""Volumes that are worked on in blocks, one by one or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from cellmap_pipeline.geometry import Shape, shape_of

# Of the files of scratch volumes, voxels.
CHUNK = 64


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
