"""Metadata of zarr 2 arrays (https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.formats.models import Zarray, parse_model
from cellmap_pipeline.io.formats.ngff import write_metadata
from cellmap_pipeline.io.storage import Metadata, read_json_if_present

# Members of `.zarray` in the specification, and those of its compressors that decoding may need.
# Writers add others (numcodecs: `checksum` of zstd, `typesize` of blosc), and readers refuse them.
ARRAY_MEMBERS = ("zarr_format", "shape", "chunks", "dtype", "compressor", "fill_value", "order",
                 "filters", "dimension_separator")  # fmt: skip
COMPRESSOR_MEMBERS = {
    "blosc": ("id", "cname", "clevel", "shuffle", "blocksize"),
    "bz2": ("id", "level"),
    "gzip": ("id", "level"),
    "zlib": ("id", "level"),
    "zstd": ("id", "level"),
}


def parse_zarray(stored: Metadata) -> ArrayMetadata:
    """Parse the content of a `.zarray`.

    Raises
    ------
    ValueError
        It does not describe an array.
    """
    content = parse_model(Zarray, stored)
    dtype = np.dtype(content.dtype)
    fill_value = content.fill_value
    return ArrayMetadata(
        format="zarr",
        shape=tuple(content.shape),
        chunks=tuple(content.chunks),
        decoded_chunks=tuple(content.chunks),
        dtype=dtype,
        stored=stored,
        separator=content.dimension_separator or ".",
        order=content.order,
        fill_value=None if fill_value is None else np.array([fill_value], dtype)[0],
    )


def portable_metadata(stored: Metadata) -> Metadata:
    """Copy the content of a `.zarray` without members that some readers refuse."""
    kept = {name: stored[name] for name in ARRAY_MEMBERS if name in stored}
    return kept | {"compressor": portable_compressor(stored.get("compressor"))}


def portable_compressor(config: Any) -> Any:
    """Copy a compressor's configuration without members that some readers refuse."""
    if not isinstance(config, dict) or config.get("id") not in COMPRESSOR_MEMBERS:
        return config
    return {name: config[name] for name in COMPRESSOR_MEMBERS[config["id"]] if name in config}


def needs_numcodecs(stored: Metadata) -> bool:
    """Whether tensorstore cannot decode the chunks of the array with this `.zarray`."""
    compressor = stored.get("compressor")
    known = compressor is None or compressor["id"] in COMPRESSOR_MEMBERS
    return bool(stored.get("filters")) or not known


class Zarr2Writer:
    """Metadata of groups and arrays in zarr 2, as `formats.array.VolumeWriter` describes them."""

    def create_group(self, path: Path) -> None:
        """Write a `.zgroup`."""
        write_metadata(path / ".zgroup", {"zarr_format": 2})

    def array_metadata(
        self, shape: Shape, chunks: Shape, dtype: np.dtype[Any], compression_level: int
    ) -> Metadata:
        """Make the content of a `.zarray`."""
        return {
            "shape": shape,
            "chunks": chunks,
            "dtype": dtype.str,
            "compressor": {
                "id": "blosc",
                "cname": "zstd",
                "clevel": compression_level,
                "shuffle": 1,
            },
            "dimension_separator": "/",
            "fill_value": 0,
        }

    def add_attributes(self, path: Path, attributes: Metadata) -> None:
        """Add attributes to a `.zattrs`."""
        file = path / ".zattrs"
        write_metadata(file, (read_json_if_present(file) or {}) | attributes)
