"""Volumes as a browser reads them: OME-NGFF 0.4 in zarr 2, key by key, from what is on disk.

Chunks of zarr 2 arrays are handed out as they lie there. Those of n5, of a bucket, and of types or
compressions that Neuroglancer lacks, are decoded and handed out as zarr 2, too.
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
from cellmap_pipeline.io.ngff import multiscale_metadata
from cellmap_pipeline.io.volumes import Volume

# What Neuroglancer reads of zarr 2 (its src/datasource/zarr/metadata/parse.ts).
TYPES = {"|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<f4"}
COMPRESSIONS = {None, "blosc", "zlib", "gzip", "zstd"}
CHUNK_KEY = re.compile(r"\d+[./]\d+[./]\d+")
# 1 compresses labels well at several hundred MB a second.
PACK = Zstd(level=1)


class ServedVolume:
    """The levels of a volume that are here, finest first: `s0`, `s1`, …"""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self._arrays = {f"s{i}": _ServedArray(level) for i, level in enumerate(volume.levels)}

    def read(self, key: str) -> bytes | None:
        """What the file `key` of the volume holds, such as `.zattrs` or `s0/0.0.0`.

        Returns
        -------
        None where there is none: no such file, or a chunk of fill values alone.

        Raises
        ------
        InputError
            A chunk that has to be decoded cannot be.
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
        return array.read(rest) if CHUNK_KEY.fullmatch(rest) else None


class _ServedArray:
    def __init__(self, level: Level) -> None:
        self.level = level

    @cached_property
    def as_it_is(self) -> bool:
        """Whether the viewer can read the array's own files."""
        own = self.level.metadata
        return (
            isinstance(self.level.path, Path)
            and not self.level.is_n5
            and own["dtype"] in TYPES
            and (own.get("compressor") or {}).get("id") in COMPRESSIONS
        )

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The `.zarray` that goes with what `read` returns."""
        own = self.level.metadata
        if self.as_it_is:
            return own
        return {
            "zarr_format": 2,
            "shape": own["shape"],
            "chunks": own["chunks"],
            "dtype": _readable(np.dtype(own["dtype"])).str,
            "compressor": PACK.get_config(),
            "fill_value": 0,
            "order": "C",
            "filters": None,
        }

    def read(self, key: str) -> bytes | None:
        """A chunk, encoded as `metadata` say; None where there is none."""
        if self.as_it_is:
            assert isinstance(self.level.path, Path)
            try:
                return (self.level.path / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        own = self.level.metadata
        index = [int(part) for part in re.split("[./]", key)]
        grid = list(zip(index, own["shape"], own["chunks"], strict=True))
        if any(i >= ceil(n / c) for i, n, c in grid):
            return None
        start = [i * c for i, _, c in grid]
        voxels = self.level.read(start, [min(n, i * c + c) for i, n, c in grid])
        # Chunks of zarr are whole, also beyond the end of the array.
        whole = [(0, c - n) for c, n in zip(own["chunks"], voxels.shape, strict=True)]
        return PACK.encode(np.ascontiguousarray(np.pad(_as_readable(voxels), whole)))


def _readable(dtype: np.dtype) -> np.dtype:
    """The nearest type that the viewer knows."""
    if dtype.kind == "b":
        return np.dtype("u1")
    if dtype.kind == "f":
        return np.dtype("<f4")
    return np.dtype("<u8") if dtype.kind + str(dtype.itemsize) == "i8" else dtype.newbyteorder("<")


def _as_readable(voxels: NDArray) -> NDArray:
    return voxels.astype(_readable(voxels.dtype), copy=False)
