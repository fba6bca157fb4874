"""Metadata of zarr 3 arrays (https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html)."""

from __future__ import annotations

import numpy as np

from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.storage import Metadata

DEFAULT_SEPARATORS = {"default": "/", "v2": "."}


def parse_zarr_json(stored: Metadata) -> ArrayMetadata:
    """Parse the content of an array's `zarr.json`.

    Raises
    ------
    KeyError, TypeError, ValueError
        It does not describe an array, or names its chunks in an unknown way.
    """
    if stored["node_type"] != "array":
        raise ValueError(f"it is of a {stored['node_type']!r}, not of an array")
    encoding = stored["chunk_key_encoding"]
    name = encoding["name"]
    if name not in DEFAULT_SEPARATORS:
        raise ValueError(f"the chunk key encoding {name!r}")
    configuration = encoding.get("configuration", {})
    separator = configuration.get("separator", DEFAULT_SEPARATORS[name])
    chunks = stored["chunk_grid"]["configuration"]["chunk_shape"]
    shards = [codec for codec in stored["codecs"] if codec["name"] == "sharding_indexed"]
    decoded_chunks = shards[0]["configuration"]["chunk_shape"] if shards else chunks
    return ArrayMetadata(
        format="zarr3",
        shape=tuple(map(int, stored["shape"])),
        chunks=tuple(map(int, chunks)),
        decoded_chunks=tuple(map(int, decoded_chunks)),
        dtype=np.dtype(stored["data_type"]),
        stored=stored,
        chunk_prefix=f"c{separator}" if name == "default" else "",
        separator=separator,
    )


def attributes_of(stored: Metadata) -> Metadata:
    """Attributes in the content of a `zarr.json`; those of OME-NGFF 0.5 as in 0.4."""
    attributes = stored.get("attributes", {})
    return {**attributes, **attributes.get("ome", {})}
