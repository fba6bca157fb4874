"""Blocks of a volume, and scratch volumes that several processes read and write in blocks."""

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

# Edge of the chunks of scratch volumes.
CHUNK_VOXELS = 64


@dataclass(frozen=True)
class Block:
    """A block of a volume.

    Attributes
    ----------
    index
        Number of the block, in scan order.
    start, stop
        First voxel and the voxel after the last one, z, y, x.
    """

    index: int
    start: Shape
    stop: Shape

    @property
    def shape(self) -> Shape:
        """Number of voxels along each axis."""
        return shape_of(b - a for a, b in zip(self.start, self.stop, strict=True))

    def padded(self, halo: Sequence[int], shape: Shape) -> Block:
        """Return the block with a halo on all sides, clipped to a volume of `shape`."""
        start = shape_of(max(0, a - h) for a, h in zip(self.start, halo, strict=True))
        stop = shape_of(min(n, b + h) for b, h, n in zip(self.stop, halo, shape, strict=True))
        return Block(self.index, start, stop)

    def within(self, outer: Block) -> tuple[slice, ...]:
        """Return the slices of this block in an array of the block `outer`."""
        return tuple(
            slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True)
        )


def split_into_blocks(shape: Shape, size: int) -> list[Block]:
    """Split a volume into blocks of at most `size` voxels along each axis."""
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
class ScratchVolume:
    """A volume (z, y, x) in a temporary folder, which several processes read and write in boxes.

    Boxes that are written at the same time must begin and end at multiples of `CHUNK_VOXELS`, or at
    the volume's end.

    Attributes
    ----------
    path
        Folder of the zarr array.
    shape
        Number of voxels along each axis.
    dtype
        Name of the data type.
    """

    path: Path
    shape: Shape
    dtype: str

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        """Read the voxels `start` to `stop`; they are 0 where nothing was written."""
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
                "chunks": [CHUNK_VOXELS] * 3,
                "dtype": np.dtype(self.dtype).str,
                "compressor": {"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 1},
                "fill_value": 0,
            },
        }
        return ts.open(spec, open=True, create=True).result()
