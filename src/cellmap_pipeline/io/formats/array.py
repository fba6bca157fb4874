"""How an array is stored, in the same terms for zarr 2, zarr 3 and n5."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.io.storage import Metadata

# Tensorstore's names of its drivers.
Format = Literal["zarr", "zarr3", "n5"]
# Names of the files with an array's metadata, and with the attributes of an array or a group. A
# folder is of the first format of which it has a file.
ARRAY_FILES: dict[Format, str] = {"zarr": ".zarray", "zarr3": "zarr.json", "n5": "attributes.json"}
ATTRIBUTES_FILES = ARRAY_FILES | {"zarr": ".zattrs"}
# Blosc's own limit for a decoded chunk. Larger ones are mistakes, or fill the memory on purpose.
MAX_CHUNK_BYTES = 2**31
# Filters may make a chunk larger by this factor.
MAX_FILTER_RATIO = 8
# Compressed data may exceed the chunk, by far less than this.
MAX_STORED_RATIO = 2
MAX_OVERHEAD_BYTES = 1 << 16
# Position and size of a chunk in the index of its shard.
INDEX_ENTRY_BYTES = 16


@dataclass(frozen=True)
class ArrayMetadata:
    """Metadata of a stored array, axes z, y, x.

    Attributes
    ----------
    format
        Format of the array.
    shape
        Number of voxels along each axis.
    chunks
        Number of voxels in each file along each axis. The files of a sharded array are its shards.
    decoded_chunks
        Number of voxels that are decoded at once: `chunks`, or the chunks inside of shards.
    dtype
        Type of the voxels.
    stored
        The metadata as stored.
    chunk_prefix, separator
        Text before the indices of a chunk in its name, and between them.
    order
        Memory order of the voxels in a chunk of zarr 2.
    fill_value
        Value of all voxels in missing chunks of zarr 2; None if it is not defined.
    """

    format: Format
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    decoded_chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    stored: Metadata
    chunk_prefix: str = ""
    separator: str = "."
    order: Literal["C", "F"] = "C"
    fill_value: np.generic | None = None

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk."""
        return math.prod(self.decoded_chunks) * self.dtype.itemsize

    @property
    def max_file_bytes(self) -> int:
        """Size that no file of a chunk, or of a shard with its index, exceeds as stored."""
        chunks = math.prod(self.chunks) // math.prod(self.decoded_chunks)
        ratio = MAX_FILTER_RATIO if self.stored.get("filters") else 1
        size = math.prod(self.chunks) * self.dtype.itemsize * ratio
        return MAX_STORED_RATIO * size + INDEX_ENTRY_BYTES * chunks + MAX_OVERHEAD_BYTES

    @property
    def chunk_counts(self) -> tuple[int, ...]:
        """Number of chunks along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    def chunk_name(self, index: Sequence[int]) -> str:
        """Name of the file of the chunk with an index (z, y, x)."""
        in_order = index[::-1] if self.format == "n5" else index
        return self.chunk_prefix + self.separator.join(map(str, in_order))


class VolumeWriter(Protocol):
    """How the metadata of groups and arrays are written in a format."""

    def create_group(self, path: Path) -> None:
        """Make a folder a group without attributes."""

    def array_metadata(
        self, shape: Shape, chunks: Shape, dtype: np.dtype[Any], compression_level: int
    ) -> Metadata:
        """Make the metadata with which tensorstore creates an array.

        Parameters
        ----------
        shape
            Number of voxels along each axis, z, y, x.
        chunks
            Number of voxels in each chunk along each axis.
        dtype
            Type of the voxels.
        compression_level
            Level of Zstandard.
        """

    def add_attributes(self, path: Path, attributes: Metadata) -> None:
        """Add attributes to those of the group or array in a folder."""
