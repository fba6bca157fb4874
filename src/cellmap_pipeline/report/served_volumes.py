"""Volumes for a browser: the files of OME-NGFF 0.4 in zarr 2, one key at a time.

Chunks of zarr 2 arrays are served as stored. Chunks in n5 volumes, in buckets, or with a dtype or
compressor that Neuroglancer does not support are decoded and served as zarr 2.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.formats.ngff import multiscale_metadata
from cellmap_pipeline.io.volumes import Volume

# Supported by Neuroglancer for zarr 2 (its src/datasource/zarr/metadata/parse.ts).
SUPPORTED_DTYPES = {"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<f4"}
SUPPORTED_COMPRESSORS = {None, "blosc", "zlib", "gzip", "zstd"}
CHUNK_KEY = re.compile(r"[0-9]{1,9}[./][0-9]{1,9}[./][0-9]{1,9}")
# Level 1 compresses labels well, at several hundred MB/s.
COMPRESSOR = Zstd(level=1)


class ServedVolume:
    """The local levels of a volume as `s0`, `s1` and so on, the finest first.

    Raises
    ------
    InputError
        Chunks have other names than the metadata say, and would be shown as background.
    """

    def __init__(self, volume: Volume) -> None:
        for level in volume.levels:
            level.check_chunk_names()
        self.volume = volume
        self._arrays = {f"s{i}": _ServedArray(level) for i, level in enumerate(volume.levels)}

    def read(self, key: str) -> bytes | None:
        """Return the content of a file of the volume, such as `.zattrs` or `s0/0.0.0`.

        Returns
        -------
        bytes or None
            None if the file does not exist, as for a chunk of fill values only.

        Raises
        ------
        InputError
            A chunk cannot be decoded.
        """
        if key == ".zattrs":
            grids = [level.grid for level in self.volume.levels]
            multiscale = multiscale_metadata(self.volume.path.name, grids)
            return json.dumps({"multiscales": [multiscale]}).encode()
        name, _, rest = key.partition("/")
        array = self._arrays.get(name)
        if array is None:
            return None
        if rest == ".zarray":
            return json.dumps(array.metadata).encode()
        if rest == ".zattrs":
            return b"{}"
        return array.read_chunk(rest) if CHUNK_KEY.fullmatch(rest) else None


class _ServedArray:
    def __init__(self, level: Level) -> None:
        self.level = level

    @cached_property
    def is_served_as_stored(self) -> bool:
        """Whether the viewer can read the array's own files."""
        stored = self.level.metadata
        return (
            isinstance(self.level.path, Path)
            and self.level.stored_as == "zarr"
            and stored.stored["dtype"] in SUPPORTED_DTYPES
            and (stored.stored.get("compressor") or {}).get("id") in SUPPORTED_COMPRESSORS
        )

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The `.zarray` that describes the chunks of `read_chunk`."""
        stored = self.level.metadata
        if self.is_served_as_stored:
            return stored.stored
        return {
            "zarr_format": 2,
            "shape": stored.shape,
            "chunks": stored.decoded_chunks,
            "dtype": _supported_dtype(stored.dtype).str,
            "compressor": COMPRESSOR.get_config(),
            "fill_value": 0,
            "order": "C",
            "filters": None,
        }

    def read_chunk(self, key: str) -> bytes | None:
        """Return a chunk, encoded as `metadata` describes, or None if it does not exist."""
        if self.is_served_as_stored:
            assert isinstance(self.level.path, Path)
            try:
                return (self.level.path / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        stored = self.level.metadata
        index = [int(part) for part in re.split("[./]", key)]
        axes = list(zip(index, stored.shape, stored.decoded_chunks, strict=True))
        if any(i >= ceil(n / chunk) for i, n, chunk in axes):
            return None
        start = [i * chunk for i, _, chunk in axes]
        voxels = self.level.read(start, [min(n, (i + 1) * chunk) for i, n, chunk in axes])
        # In zarr, chunks at the end of the array have the full chunk size, too.
        padding = [(0, chunk - n) for (*_, chunk), n in zip(axes, voxels.shape, strict=True)]
        return COMPRESSOR.encode(np.ascontiguousarray(np.pad(_to_supported(voxels), padding)))


def _supported_dtype(dtype: np.dtype) -> np.dtype:
    """The closest dtype that the viewer supports."""
    if dtype.kind == "b":
        return np.dtype("u1")
    if dtype.kind == "f":
        return np.dtype("<f4")
    return np.dtype("<u8") if dtype.kind + str(dtype.itemsize) == "i8" else dtype.newbyteorder("<")


def _to_supported(voxels: NDArray) -> NDArray:
    return voxels.astype(_supported_dtype(voxels.dtype), copy=False)
