"""Stored arrays, zarr 2, zarr 3 or n5: their voxels, and which of their chunks are present."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.formats.array import (
    ARRAY_FILES,
    ATTRIBUTES_FILES,
    MAX_CHUNK_BYTES,
    ArrayMetadata,
    Format,
)
from cellmap_pipeline.io.formats.registry import parse_array, parse_attributes
from cellmap_pipeline.io.formats.zarr2 import needs_numcodecs, portable_metadata
from cellmap_pipeline.io.resampling import nearest_indices
from cellmap_pipeline.io.storage import (
    ABSENT_FILE,
    Location,
    Metadata,
    S3Path,
    kvstore,
    present,
    read_json,
    read_json_files,
    read_text,
)

# Cache of decoded chunks, shared by all volumes that a process opens.
CACHE_BYTES = 1 << 30
# A chunk of a zarr 2 array, or the folder of its first index.
CHUNK_NAME = re.compile(r"\d+(\.\d+)*")
CONTEXT = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


def set_cache_bytes(limit: int) -> None:
    """Limit the cache of decoded chunks of all arrays that are opened from now on."""
    global CONTEXT
    CONTEXT = ts.Context({"cache_pool": {"total_bytes_limit": limit}})


def spread_indices(number: int, wanted: int) -> NDArray[np.intp]:
    """Choose up to `wanted` evenly spread ones of the indices below `number`; always the same."""
    if number <= wanted:
        return np.arange(number)
    # At a random place of each stretch: equal distances may put all of them into one plane.
    place = np.random.default_rng(0).random(wanted)
    stretches = np.arange(wanted + 1) * number // wanted
    return stretches[:-1] + (place * np.diff(stretches)).astype(int)


@dataclass
class Level:
    """One resolution of a volume: a stored array and its grid."""

    path: Location
    grid: Grid
    stored_as: Format = "zarr"

    @cached_property
    def metadata(self) -> ArrayMetadata:
        """The array's metadata.

        Raises
        ------
        InputError
            The metadata are missing or invalid.
        """
        file = self.path / ARRAY_FILES[self.stored_as]
        stored = read_json(file)
        try:
            metadata = parse_array(stored, self.stored_as)
            if len(metadata.shape) != 3:
                raise ValueError(f"chunks are {list(metadata.chunks)}")
            if metadata.chunk_bytes > MAX_CHUNK_BYTES:
                chunks = list(metadata.decoded_chunks)
                raise ValueError(f"a chunk of {chunks} voxels is more than 2 GiB")
        except ValueError as error:
            raise InputError(
                f"{file} does not say how the array is stored ({error}): copy it again, or "
                "write the array again as zarr 2"
            ) from None
        return metadata

    @cached_property
    def attributes(self) -> Metadata:
        """Attributes of the array."""
        return array_attributes(self.path, self.stored_as)

    @cached_property
    def array(self) -> ts.TensorStore:
        """The open array.

        Raises
        ------
        InputError
            The array cannot be opened, or its chunks have other names than its metadata say.
        """
        self.check_chunk_names()
        try:
            array = self._open()
        except (ValueError, NotImplementedError) as error:
            raise InputError(
                f"{self.path} cannot be opened ({_reason(error)}): copy or fetch it again, or "
                "write it again as zarr 2 with a common compressor"
            ) from None
        return array.T if self.stored_as == "n5" else array

    def _open(self) -> ts.TensorStore:
        spec: Metadata = {"driver": self.stored_as, "kvstore": kvstore(self.path)}
        options: dict[str, Any] = {"read": True, "context": CONTEXT, "recheck_cached": "open"}
        if self.stored_as == "zarr":
            if needs_numcodecs(self.metadata.stored):
                # Imports zarr, which few arrays need.
                from cellmap_pipeline.io.formats.numcodecs_array import open_with_numcodecs

                return open_with_numcodecs(self.metadata, spec["kvstore"], CONTEXT)
            # Tensorstore refuses members that it does not know, such as zstd's `checksum`.
            spec["metadata"] = portable_metadata(self.metadata.stored)
            options |= {"open": True, "assume_metadata": True}
        return ts.open(spec, **options).result()

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

    def check_chunk_names(self) -> bool:
        """Return whether the array has chunks, as far as a zarr 2 array in a folder shows.

        Raises
        ------
        InputError
            Its chunks have other names than its metadata say.
        """
        if self.stored_as != "zarr" or not isinstance(self.path, Path):
            return True
        return check_chunk_names(self.path, self.metadata.separator)

    def _chunk_keys(self, start: Sequence[int], stop: Sequence[int]) -> tuple[list[str], list[int]]:
        """Names of the chunks of a box, in C order, and their number along each axis."""
        chunks = self.metadata.chunks
        axes = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, chunks, strict=True)]
        keys = [self.metadata.chunk_name(index) for index in product(*axes)]
        return keys, [len(axis) for axis in axes]

    @cached_property
    def _chunks_seen(self) -> dict[str, bool]:
        return {}

    @cached_property
    def _absent_in_source(self) -> frozenset[str]:
        return read_absent(self.path)

    def __getstate__(self) -> dict[str, Any]:
        # Open arrays cannot be pickled: each process opens its own.
        return {"path": self.path, "grid": self.grid, "stored_as": self.stored_as}


def read_absent(folder: Location) -> frozenset[str]:
    """Read the names of files that the source of a fetched array lacks.

    Raises
    ------
    InputError
        The record is broken.
    """
    try:
        return frozenset(json.loads(read_text(folder / ABSENT_FILE) or "[]"))
    except ValueError as error:
        raise InputError(
            f"{folder / ABSENT_FILE} is not JSON ({error}): delete it, and fetch again"
        ) from None


def array_attributes(path: Location, stored_as: Format) -> Metadata:
    """Read the attributes of an array, of which a local copy may have no voxels."""
    own, without_voxels = read_json_files(path, [ATTRIBUTES_FILES[stored_as], ".zattrs"])
    file = path / ATTRIBUTES_FILES[stored_as]
    return parse_attributes(own, stored_as, file) if own else without_voxels or {}


def check_chunk_names(folder: Path, separator: str) -> bool:
    """Look for the chunks of a zarr 2 array; return whether there are any.

    Parameters
    ----------
    folder
        Folder of the array.
    separator
        Text between the indices in the names of its chunks, according to its metadata.

    Raises
    ------
    InputError
        Chunks are named with the other separator, and none with this one. They would be read as
        missing, that is as background.
    """
    misnamed = None
    with os.scandir(folder) as entries:
        for entry in entries:
            if CHUNK_NAME.fullmatch(entry.name):
                if entry.is_dir() == (separator == "/"):
                    return True
                misnamed = entry.name
    if misnamed is not None:
        raise InputError(
            f"{folder} has no chunk named as .zarray says (dimension_separator {separator!r}), but "
            f"has {misnamed!r}: correct the separator"
        )
    return False


def _reason(error: Exception) -> str:
    """Message of a tensorstore error without the arguments of the failed call."""
    text = re.sub(r" \[[a-z_]+='.*|; at byte \d+$", "", " ".join(str(error).split()))
    return re.sub(r"^[A-Z_]+: ", "", text)
