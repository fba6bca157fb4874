"""Stored arrays, zarr 2 or n5: their voxels, and which of their chunks are present."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.formats.n5 import array_metadata
from cellmap_pipeline.io.formats.ngff import read_json
from cellmap_pipeline.io.resampling import nearest_indices
from cellmap_pipeline.io.storage import (
    ABSENT_FILE,
    Location,
    Metadata,
    S3Path,
    kvstore,
    present,
    read_text,
)

# Cache of decoded chunks, shared by all volumes that a process opens.
CACHE_BYTES = 1 << 30
# Blosc's own limit for a decoded chunk. Larger ones are mistakes, or fill the memory on purpose.
MAX_CHUNK_BYTES = 2**31
CONTEXT = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


def set_cache_bytes(limit: int) -> None:
    """Limit the cache of decoded chunks of all arrays that are opened from now on."""
    global CONTEXT
    CONTEXT = ts.Context({"cache_pool": {"total_bytes_limit": limit}})


@dataclass
class Level:
    """One resolution of a volume: a stored array and its grid."""

    path: Location
    grid: Grid
    is_n5: bool = False

    @cached_property
    def metadata(self) -> Metadata:
        """The array's `.zarray`, or its equivalent for n5.

        Raises
        ------
        InputError
            The metadata are missing or invalid.
        """
        file = self.path / ("attributes.json" if self.is_n5 else ".zarray")
        stored = read_json(file)
        try:
            metadata = array_metadata(stored) if self.is_n5 else stored
            size = np.dtype(metadata["dtype"]).itemsize
            if len(metadata["chunks"]) != 3 or not all(int(n) > 0 for n in metadata["chunks"]):
                raise ValueError(f"chunks are {metadata['chunks']}")
            if math.prod(metadata["chunks"]) * size > MAX_CHUNK_BYTES:
                raise ValueError(f"a chunk of {metadata['chunks']} voxels is more than 2 GiB")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file} does not say how the array is stored ({type(error).__name__}: {error}): "
                "copy it again, or write the array again as zarr 2"
            ) from None
        return metadata

    @cached_property
    def array(self) -> ts.TensorStore:
        """The open array.

        Raises
        ------
        InputError
            The array cannot be opened.
        """
        spec = {"driver": "n5" if self.is_n5 else "zarr", "kvstore": kvstore(self.path)}
        try:
            array = ts.open(spec, read=True, context=CONTEXT, recheck_cached="open").result()
        except (ValueError, NotImplementedError) as error:
            raise InputError(
                f"{self.path} cannot be opened ({_reason(error)}): copy or fetch it again, or "
                "write it again as zarr 2 with a common compressor and no filters"
            ) from None
        return array.T if self.is_n5 else array

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray:
        """Read the voxels of a box inside the array.

        Raises
        ------
        InputError
            A chunk is broken, or the bucket does not answer.
        """
        slices = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        array = self.array
        try:
            return array[slices].read(order="C").result()
        except ValueError as error:
            denied = "PERMISSION_DENIED" in str(error)
            remedy = "ask its owner for read permission" if denied else "copy or fetch it again"
            raise InputError(
                f"{self.path}: cannot read voxels {list(start)} to {list(stop)} "
                f"({_reason(error)}): {remedy}"
            ) from None

    def nearest_voxels(self, grid: Grid) -> tuple[list[NDArray[np.intp]], tuple[slice, ...]]:
        """Find the array's voxels that are nearest to those of `grid`.

        Returns
        -------
        used
            Per axis, the indices of the nearest voxels that lie inside the array.
        into
            Per axis, the slice of `grid` whose nearest voxels those are.
        """
        used, into = [], []
        for d, (position, n) in enumerate(zip(self.grid.position(grid), grid.shape, strict=True)):
            index = nearest_indices(position, grid.voxel_size[d] / self.grid.voxel_size[d], n)
            first, last = np.searchsorted(index, [0, self.grid.shape[d]])
            into.append(slice(first, last))
            used.append(index[first:last])
        return used, tuple(into)

    def missing_chunks(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.bool_]:
        """Mark the chunks of a box inside the array that are not present.

        Returns
        -------
        Boolean array with one element per chunk; the first one is the chunk that holds `start`.
        """
        keys, shape = self._chunk_keys(start, stop)
        new = [key for key in keys if key not in self._chunks_seen]
        self._chunks_seen.update(zip(new, present(self.path, new), strict=True))
        return ~np.array([self._chunks_seen[key] for key in keys], bool).reshape(shape)

    def empty_chunks(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[np.bool_]:
        """Mark the missing chunks that do not exist in the source either.

        Those hold only the fill value. A bucket is the source itself. For arrays that were fetched
        from one, the file `ABSENT_FILE` lists them.
        """
        missing = self.missing_chunks(start, stop)
        if isinstance(self.path, S3Path):
            return missing
        keys, shape = self._chunk_keys(start, stop)
        absent = np.array([key in self._absent_in_source for key in keys], bool)
        return missing & absent.reshape(shape)

    def _chunk_keys(self, start: Sequence[int], stop: Sequence[int]) -> tuple[list[str], list[int]]:
        """Names of the chunks of a box, in C order, and their number along each axis."""
        chunks = self.metadata["chunks"]
        separator = "/" if self.is_n5 else self.metadata.get("dimension_separator", ".")
        axes = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, chunks, strict=True)]
        names = [[str(i) for i in index] for index in product(*axes)]
        keys = [separator.join(name[::-1] if self.is_n5 else name) for name in names]
        return keys, [len(axis) for axis in axes]

    @cached_property
    def _chunks_seen(self) -> dict[str, bool]:
        return {}

    @cached_property
    def _absent_in_source(self) -> frozenset[str]:
        return frozenset(json.loads(read_text(self.path / ABSENT_FILE) or "[]"))

    def __getstate__(self) -> dict[str, Any]:
        # Open arrays cannot be pickled: each process opens its own.
        return {"path": self.path, "grid": self.grid, "is_n5": self.is_n5}


def _reason(error: Exception) -> str:
    """Message of a tensorstore error without the arguments of the failed call."""
    text = re.sub(r" \[[a-z_]+='.*|; at byte \d+$", "", " ".join(str(error).split()))
    return re.sub(r"^[A-Z_]+: ", "", text)
