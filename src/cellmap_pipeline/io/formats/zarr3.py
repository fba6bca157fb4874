"""Metadata of zarr 3 arrays (https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html)."""

from __future__ import annotations

import numpy as np

from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.formats.models import ZarrJson, parse_model
from cellmap_pipeline.io.storage import Metadata

DEFAULT_SEPARATORS = {"default": "/", "v2": "."}


def parse_zarr_json(stored: Metadata) -> ArrayMetadata:
    """Parse the content of an array's `zarr.json`.

    Raises
    ------
    ValueError
        It does not describe an array, or names its chunks in an unknown way.
    """
    node_type = stored.get("node_type", "array")
    if node_type != "array":
        raise ValueError(f"it is of a {node_type!r}, not of an array")
    content = parse_model(ZarrJson, stored)
    name = content.chunk_key_encoding.name
    if name not in DEFAULT_SEPARATORS:
        raise ValueError(f"the chunk key encoding {name!r}")
    separator = content.chunk_key_encoding.configuration.separator or DEFAULT_SEPARATORS[name]
    return ArrayMetadata(
        format="zarr3",
        shape=tuple(content.shape),
        chunks=tuple(content.chunk_grid.configuration.chunk_shape),
        decoded_chunks=tuple(content.decoded_chunks),
        dtype=np.dtype(content.data_type),
        stored=stored,
        chunk_prefix=f"c{separator}" if name == "default" else "",
        separator=separator,
    )


def attributes_of(stored: Metadata) -> Metadata:
    """Attributes in the content of a `zarr.json`; those of OME-NGFF 0.5 as in 0.4.

    Raises
    ------
    ValueError
        They are not given by name.
    """
    attributes = stored.get("attributes", {})
    ome = attributes.get("ome", {}) if isinstance(attributes, dict) else None
    if not isinstance(ome, dict):
        raise ValueError("`attributes`, and `ome` in it, must hold attributes by name")
    return {**attributes, **ome}
