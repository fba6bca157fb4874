"""Metadata of zarr 2 arrays (https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.storage import Metadata

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
    KeyError, TypeError, ValueError
        It does not describe an array.
    """
    chunks = tuple(map(int, stored["chunks"]))
    return ArrayMetadata(
        format="zarr",
        shape=tuple(map(int, stored["shape"])),
        chunks=chunks,
        decoded_chunks=chunks,
        dtype=np.dtype(stored["dtype"]),
        stored=stored,
        separator=stored.get("dimension_separator", "."),
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
    known = compressor is None or compressor.get("id") in COMPRESSOR_MEMBERS
    return bool(stored.get("filters")) or not known
