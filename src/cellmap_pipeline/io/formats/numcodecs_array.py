"""Zarr 2 arrays with codecs that tensorstore does not have, such as lz4, lzma and filters."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.formats.chunk_codecs import ChunkDecoder
from cellmap_pipeline.io.storage import Metadata


def open_with_numcodecs(
    metadata: ArrayMetadata, kvstore: Metadata, context: ts.Context
) -> ts.TensorStore:
    """Open a zarr 2 array whose chunks numcodecs decodes when they are read.

    Parameters
    ----------
    metadata
        Metadata of the array.
    kvstore
        Specification of its key-value store.
    context
        Context whose cache holds the decoded chunks.

    Raises
    ------
    ValueError
        The metadata are invalid, a codec is unknown or unsafe, or the store cannot be opened.
    """
    decoder = ChunkDecoder.of(metadata)
    chunks = ts.KvStore.open(kvstore).result()
    return ts.virtual_chunked(
        partial(_read_chunk, decoder, chunks),
        dtype=ts.dtype(metadata.dtype.newbyteorder("=")),
        shape=metadata.shape,
        chunk_layout=ts.ChunkLayout(read_chunk_shape=metadata.chunks),
        context=context,
    )


def _read_chunk(
    decoder: ChunkDecoder,
    chunks: ts.KvStore,
    domain: ts.IndexDomain,
    voxels: NDArray[Any],
    parameters: ts.VirtualChunkedReadParameters,
) -> None:
    """Fill `voxels`, the part of one chunk inside the array."""
    metadata = decoder.metadata
    index = [a // n for a, n in zip(domain.origin, metadata.chunks, strict=True)]
    answer = chunks.read(metadata.chunk_name(index)).result()
    if answer.state != "value":
        voxels[...] = 0 if metadata.fill_value is None else metadata.fill_value
        return
    decoded = decoder.decode(answer.value)
    start = np.subtract(domain.origin, np.multiply(index, metadata.chunks))
    voxels[...] = decoded[tuple(slice(a, a + n) for a, n in zip(start, domain.shape, strict=True))]
