"""Safe decoding of zarr 2 chunks, which does not trust the sizes in their headers.

The array's metadata determine the size of a decoded chunk. A chunk whose header declares a larger
size is reported as broken before memory is allocated for it.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray

# Filters that do not execute code. The encoded data are at most MAX_FILTER_RATIO times as large as
# the chunk.
SAFE_FILTERS = {"astype", "bitround", "crc32", "adler32", "delta", "fixedscaleoffset", "fletcher32",
                "packbits", "quantize", "shuffle"}  # fmt: skip
MAX_FILTER_RATIO = 8
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Bits of the frame header's descriptor.
ZSTD_SIZE_OF_8_BYTES = 0b1100_0000


class ChunkError(ValueError):
    """Error for chunks that are broken, or whose codecs are not supported."""


def check_codecs(array: zarr.Array) -> None:
    """Refuse an array whose chunks cannot be decoded safely.

    Raises
    ------
    ChunkError
        A codec is not supported.
    """
    compressor = array.compressor.codec_id if array.compressor else None
    if compressor not in (None, *DECLARED_SIZE, *BOUNDED_DECODERS):
        raise ChunkError(f"the compressor {compressor} is not one that every reader knows")
    unknown = {codec.codec_id for codec in array.filters or ()} - SAFE_FILTERS
    if unknown:
        raise ChunkError(f"the filter {', '.join(sorted(unknown))} is not one that is safe to read")


def decode_chunk(raw: bytes, array: zarr.Array) -> NDArray[Any]:
    """Decode the voxels of a chunk, in the shape of the array's chunks.

    Parameters
    ----------
    raw
        Stored bytes.
    array
        Array of the chunk, which passed `check_codecs`.

    Raises
    ------
    ChunkError
        The decoded chunk does not have the expected size.
    """
    size = math.prod(array.chunks) * array.dtype.itemsize
    filters = array.filters or ()
    limit = size * MAX_FILTER_RATIO if filters else size
    try:
        data = _decompressed(raw, array.compressor, limit)
        for codec in reversed(filters):
            data = codec.decode(data)
    except (ValueError, RuntimeError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ChunkError(str(error)) from None
    values = np.frombuffer(np.ascontiguousarray(data), np.uint8)
    if values.nbytes != size:
        raise ChunkError(f"it holds {values.nbytes} bytes, but a chunk has {size}")
    return values.view(array.dtype).reshape(array.chunks, order=array.order)


def _decompressed(raw: bytes, compressor: Any, limit: int) -> Any:
    if compressor is None:
        return raw
    if compressor.codec_id in BOUNDED_DECODERS:
        data = BOUNDED_DECODERS[compressor.codec_id](raw, limit + 1, compressor)
        if len(data) > limit:
            raise ChunkError(f"it unpacks to more than {limit} bytes")
        return data
    declared = DECLARED_SIZE[compressor.codec_id](raw)
    if declared is None:
        raise ChunkError("it is cut off, or its header is broken or does not declare its size")
    if declared > limit:
        raise ChunkError(f"its header says {declared} bytes, but a chunk has {limit}")
    return compressor.decode(raw)


def _blosc_size(raw: bytes) -> int | None:
    """Size that the header of a Blosc 1 chunk declares; None if the chunk is truncated."""
    compressed = int.from_bytes(raw[12:16], "little")
    return int.from_bytes(raw[4:8], "little") if 16 <= compressed <= len(raw) else None


def zstd_size(raw: bytes) -> int | None:
    """Content size that a Zstandard frame declares; None if it does not, or is no such frame."""
    if not _is_zstd(raw):
        return None
    start, length = _zstd_size_field(raw)
    if not length:
        return None
    return int.from_bytes(raw[start : start + length], "little") + (256 if length == 2 else 0)


def declare_zstd_size(raw: bytes, size: int) -> bytes:
    """Add the content size to the header of a Zstandard frame that does not declare it.

    Tools that compress a stream do not declare it, but numcodecs before 0.16 cannot decode frames
    without it. The frame is decoded, into at most `size` bytes, to verify the size.

    Raises
    ------
    ChunkError
        It is not a frame of `size` bytes.
    """
    if not _is_zstd(raw):
        raise ChunkError("it is not a Zstandard frame")
    start, _ = _zstd_size_field(raw)
    descriptor = bytes([raw[4] | ZSTD_SIZE_OF_8_BYTES])
    declared = raw[:4] + descriptor + raw[5:start] + size.to_bytes(8, "little") + raw[start:]
    try:
        Zstd().decode(declared)
    except RuntimeError as error:
        raise ChunkError(f"it does not hold {size} bytes: {error}") from None
    return declared


def _is_zstd(raw: bytes) -> bool:
    return len(raw) >= 6 and raw[:4] == ZSTD_MAGIC


def _zstd_size_field(raw: bytes) -> tuple[int, int]:
    """Start and length of the content size in a Zstandard frame (RFC 8878, 3.1.1.1), bytes."""
    flag, single, dictionary = raw[4] >> 6, raw[4] >> 5 & 1, raw[4] & 3
    return 5 + (not single) + (0, 1, 2, 4)[dictionary], (single, 2, 4, 8)[flag]


def _gunzip(raw: bytes, limit: int, codec: Any) -> bytes:
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(raw, limit)


def _inflate(raw: bytes, limit: int, codec: Any) -> bytes:
    return zlib.decompressobj().decompress(raw, limit)


def _bunzip(raw: bytes, limit: int, codec: Any) -> bytes:
    return bz2.BZ2Decompressor().decompress(raw, limit)


def _unxz(raw: bytes, limit: int, codec: Any) -> bytes:
    filters = codec.filters if codec.format == lzma.FORMAT_RAW else None
    return lzma.LZMADecompressor(codec.format, filters=filters).decompress(raw, limit)


# Codecs whose header declares the decoded size, and codecs whose decoding can stop at a limit.
DECLARED_SIZE: dict[str, Callable[[bytes], int | None]] = {
    "blosc": _blosc_size,
    "lz4": lambda raw: int.from_bytes(raw[:4], "little"),
    "zstd": zstd_size,
}
BOUNDED_DECODERS: dict[str, Callable[[bytes, int, Any], bytes]] = {
    "gzip": _gunzip,
    "zlib": _inflate,
    "bz2": _bunzip,
    "lzma": _unxz,
}
