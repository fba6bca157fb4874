"""Lazy views of arrays, and their traversal in slabs that fit in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]

SLAB_VOXELS = 1 << 25


class ArrayLike(Protocol):
    """An array of three axes that is read by boxes, such as one of NumPy or zarr."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """Read the voxels in a box; its starts and stops lie within the shape."""


@dataclass(frozen=True)
class MaskedView:
    """An array multiplied by a mask of the same shape."""

    array: ArrayLike
    mask: ArrayLike

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the product."""
        return np.result_type(self.array.dtype, self.mask.dtype)

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """Read the voxels in a box."""
        return self.array[box] * self.mask[box]


@dataclass(frozen=True)
class TransposedView:
    """An array with its axes in reverse order."""

    array: ArrayLike

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return self.array.shape[::-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self.array.dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Shape of the stored chunks, or None."""
        chunks = chunks_of(self.array)
        return chunks[::-1] if chunks else None

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """Read the voxels in a box."""
        return self.array[box[::-1]].T


@dataclass(frozen=True)
class PlacedView:
    """An array placed in a volume of another shape, with background around it.

    Attributes
    ----------
    array
        (z, y, x).
    offset
        Voxel of the volume at which the array's first voxel lies; may be negative.
    shape
        Of the volume; the array is cropped to it.
    order
        Memory order that the volume is reported to have: F if its first axis varies fastest.
    """

    array: ArrayLike
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    order: str = "C"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self.array.dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Shape of the stored chunks, or None."""
        return chunks_of(self.array)

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """Read the voxels in a box."""
        result = np.zeros([side.stop - side.start for side in box], self.dtype)
        source, target = [], []
        for first, n, side in zip(self.offset, self.array.shape, box, strict=True):
            low, high = max(side.start, first), min(side.stop, first + n)
            if low >= high:
                return result
            source.append(slice(low - first, high - first))
            target.append(slice(low - side.start, high - side.start))
        result[tuple(target)] = self.array[source[0], source[1], source[2]]
        return result


def chunks_of(array: ArrayLike) -> tuple[int, ...] | None:
    """Shape of the chunks that an array is stored in, or None."""
    return getattr(array, "chunks", None)


def is_fortran(array: ArrayLike) -> bool:
    """Whether the first axis of an array varies fastest in memory."""
    if isinstance(array, np.ndarray):
        return array.flags.f_contiguous and not array.flags.c_contiguous
    if isinstance(array, MaskedView):
        return is_fortran(array.array) and is_fortran(array.mask)
    return getattr(array, "order", "C") == "F"


def full_box(shape: Sequence[int]) -> Box:
    """Box of all voxels of a shape."""
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])


def slab_boxes(array: ArrayLike, voxels: int | None = None) -> list[Box]:
    """Divide an array along its first axis into boxes of about `voxels` voxels each.

    Boxes end at chunk borders, so that no chunk is read twice, unless chunks are thicker than a
    box.
    """
    depth, *plane = array.shape
    thickness = max(1, (voxels or SLAB_VOXELS) // max(1, math.prod(plane)))
    chunks = chunks_of(array)
    if chunks and chunks[0] <= thickness:
        thickness -= thickness % chunks[0]
    _, rows, columns = full_box(array.shape)
    return [
        (slice(z, min(z + thickness, depth)), rows, columns) for z in range(0, depth, thickness)
    ]


def slabs(*arrays: ArrayLike) -> Iterator[tuple[NDArray[Any], ...]]:
    """Read arrays of one shape slab by slab; slabs follow the chunks of the first array."""
    for box in slab_boxes(arrays[0]):
        yield tuple(array[box] for array in arrays)
