"""Volumes that are read a part at a time, so that what is worked on fits the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]

SLAB_VOXELS = 1 << 25


class Volume(Protocol):
    """What NumPy and zarr arrays of three axes have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """The voxels in a box; its starts and stops lie within the shape."""


@dataclass(frozen=True)
class Masked:
    """A volume times a mask of the same shape."""

    volume: Volume
    mask: Volume

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels."""
        return self.volume.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the product."""
        return np.result_type(self.volume.dtype, self.mask.dtype)

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """The voxels in a box."""
        return self.volume[box] * self.mask[box]


@dataclass(frozen=True)
class Transposed:
    """A volume with its axes in the opposite order."""

    volume: Volume

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels."""
        return self.volume.shape[::-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self.volume.dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Shape of the chunks that are stored, where there are any."""
        chunks = chunks_of(self.volume)
        return chunks[::-1] if chunks else None

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """The voxels in a box."""
        return self.volume[box[::-1]].T


@dataclass(frozen=True)
class Placed:
    """A volume with its first voxel at `offset` of another shape; beyond it is background.

    `order` is F where the result is said to lie in memory with the first axis innermost.
    """

    volume: Volume
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    order: str = "C"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self.volume.dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Shape of the chunks that are stored, where there are any."""
        return chunks_of(self.volume)

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """The voxels in a box."""
        result = np.zeros([part.stop - part.start for part in box], self.dtype)
        source, into = [], []
        for first, n, part in zip(self.offset, self.volume.shape, box, strict=True):
            low, high = max(part.start, first), min(part.stop, first + n)
            if low >= high:
                return result
            source.append(slice(low - first, high - first))
            into.append(slice(low - part.start, high - part.start))
        result[tuple(into)] = self.volume[source[0], source[1], source[2]]
        return result


def chunks_of(volume: Volume) -> tuple[int, ...] | None:
    """Shape of the chunks that a volume is stored in, or None."""
    return getattr(volume, "chunks", None)


def is_fortran(volume: Volume) -> bool:
    """Whether the voxels lie in memory with the first axis innermost."""
    if isinstance(volume, np.ndarray):
        return volume.flags.f_contiguous and not volume.flags.c_contiguous
    if isinstance(volume, Masked):
        return is_fortran(volume.volume) and is_fortran(volume.mask)
    return getattr(volume, "order", "C") == "F"


def whole(shape: Sequence[int]) -> Box:
    """The box of all voxels."""
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])


def slab_boxes(volume: Volume, voxels: int | None = None) -> list[Box]:
    """Boxes along the first axis that together hold all voxels, of some `voxels` each.

    They end where chunks end, so that no chunk is read twice, unless chunks are deeper.
    """
    depth, *plane = volume.shape
    thick = max(1, (voxels or SLAB_VOXELS) // max(1, math.prod(plane)))
    chunks = chunks_of(volume)
    if chunks and chunks[0] <= thick:
        thick -= thick % chunks[0]
    _, rows, columns = whole(volume.shape)
    return [(slice(z, min(z + thick, depth)), rows, columns) for z in range(0, depth, thick)]


def slabs(*volumes: Volume) -> Iterator[tuple[NDArray[Any], ...]]:
    """The same slab of each of `volumes`, one after the other; the first one's chunks count."""
    for box in slab_boxes(volumes[0]):
        yield tuple(volume[box] for volume in volumes)
