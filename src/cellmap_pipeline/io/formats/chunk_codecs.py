"""Bounded decoding of zarr 2 chunks, which does not trust the sizes in their headers.

The array's metadata determine the size of a chunk after each of its codecs. Decoding stops as soon
as a chunk exceeds it, and a header that declares a larger size is refused before memory is
allocated for it.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numcodecs
import numpy as np
from numcodecs import Zstd
from numcodecs.abc import Codec
from numpy.typing import NDArray

from cellmap_pipeline.io.formats.array import (
    MAX_CHUNK_BYTES,
    MAX_FILTER_RATIO,
    MAX_OVERHEAD_BYTES,
    MAX_STORED_RATIO,
    ArrayMetadata,
)
from cellmap_pipeline.io.formats.streams import Decompressor, Inflate, unpacked_pieces

CHECKSUM_BYTES = 4
MAX_ITEM_BYTES = 16
# A decoder's own memory. The largest preset of xz takes 65 MiB.
MAX_LZMA_BYTES = 1 << 28
# Streams of a chunk are fed in pieces, as what follows the end of a stream is copied.
INPUT_BYTES = 1 << 16
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Bits of the frame header's descriptor.
ZSTD_SIZE_OF_8_BYTES = 0b1100_0000
# Exceptions of codecs for broken chunks and unsuitable options.
CODEC_ERRORS = (
    ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, OSError, EOFError,
    zlib.error, lzma.LZMAError,
)  # fmt: skip


class ChunkError(ValueError):
    """Error for chunks that are broken, or whose codecs are not supported."""


@dataclass(frozen=True)
class ChunkDecoder:
    """Decoder of the chunks of a zarr 2 array.

    Attributes
    ----------
    metadata
        Metadata of the array.
    compressor
        Codec of the stored bytes; None if they are not compressed.
    filters
        Codecs that follow when a chunk is decoded, in that order, each with the number of bytes
        that it must return.
    encoded_bytes
        Size of a chunk that is decompressed, but not filtered.
    """

    metadata: ArrayMetadata
    compressor: Codec | None
    filters: tuple[tuple[Codec, int], ...]
    encoded_bytes: int

    @classmethod
    def of(cls, metadata: ArrayMetadata) -> ChunkDecoder:
        """Make the decoder of an array.

        Raises
        ------
        ChunkError
            A chunk is too large, a codec is not supported, or decoding would execute code.
        """
        size = metadata.chunk_bytes
        if size > MAX_CHUNK_BYTES:
            raise ChunkError(f"chunks of {list(metadata.chunks)} voxels are above 2 GiB")
        limit = MAX_FILTER_RATIO * size + CHECKSUM_BYTES
        filters = []
        for config in metadata.stored.get("filters") or []:
            name = config["id"]
            if name not in FILTER_SIZES:
                raise ChunkError(f"the filter {name} is not one that is safe to read")
            codec = _codec(config)
            filters.append((codec, size))
            try:
                size = FILTER_SIZES[name](codec, size)
            except CODEC_ERRORS as error:
                raise ChunkError(f"the filter {name} has invalid options: {error}") from None
            if size > limit:
                raise ChunkError(
                    f"its filters make a chunk more than {MAX_FILTER_RATIO} times larger"
                )
        config = metadata.stored.get("compressor")
        compressor = None
        if config is not None:
            name = config["id"]
            if name not in DECOMPRESSORS:
                raise ChunkError(f"the compressor {name} is not one that every reader knows")
            compressor = _codec(config)
            if name == "lzma":
                _check_lzma(compressor)
        return cls(metadata, compressor, tuple(reversed(filters)), size)

    @property
    def max_stored_bytes(self) -> int:
        """Size that no stored chunk exceeds, however badly it is compressed."""
        return MAX_STORED_RATIO * self.encoded_bytes + MAX_OVERHEAD_BYTES

    def decode(self, raw: bytes) -> NDArray[Any]:
        """Decode the voxels of a chunk, in the shape of the array's chunks.

        Raises
        ------
        ChunkError
            The chunk is broken, or does not have the expected size.
        """
        try:
            data: Any = raw
            if self.compressor is not None:
                decompress = DECOMPRESSORS[self.compressor.codec_id]
                data = decompress(raw, self.encoded_bytes, self.compressor)
            self._check_size(data, self.encoded_bytes)
            for codec, size in self.filters:
                data = codec.decode(data)
                self._check_size(data, size)
        except ChunkError:
            raise
        except CODEC_ERRORS as error:
            raise ChunkError(str(error) or type(error).__name__) from None
        values = np.frombuffer(np.ascontiguousarray(data), np.uint8).view(self.metadata.dtype)
        return values.reshape(self.metadata.chunks, order=self.metadata.order)

    def _check_size(self, data: Any, size: int) -> None:
        held = memoryview(data).nbytes
        if held != size:
            raise ChunkError(f"it holds {held} bytes, but a chunk has {size}")


def _codec(config: Mapping[str, Any]) -> Codec:
    """Make a codec that is known to execute no code."""
    try:
        return numcodecs.get_codec(dict(config))
    except CODEC_ERRORS as error:
        raise ChunkError(f"the codec {config['id']} has invalid options: {error}") from None


def _converted_size(size: int, decoded: np.dtype[Any], encoded: np.dtype[Any]) -> int:
    """Encoded size of a chunk of `size` bytes whose elements change their type."""
    for dtype in (np.dtype(decoded), np.dtype(encoded)):
        if dtype.kind not in "biuf" or dtype.itemsize > MAX_ITEM_BYTES:
            raise ValueError(f"{dtype} is no type of numbers")
    if size % decoded.itemsize:
        raise ValueError(f"a chunk of {size} bytes is no array of {decoded}")
    return size // decoded.itemsize * encoded.itemsize


def _astype_size(codec: Any, size: int) -> int:
    return _converted_size(size, codec.decode_dtype, codec.encode_dtype)


def _dtype_size(codec: Any, size: int) -> int:
    return _converted_size(size, codec.dtype, codec.astype)


def _scaled_size(codec: Any, size: int) -> int:
    for value in (codec.scale, codec.offset):
        # A list would be broadcast, to any size.
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("its scale and offset must be numbers")
    return _dtype_size(codec, size)


def _shuffle_size(codec: Any, size: int) -> int:
    if not isinstance(codec.elementsize, int) or not 1 <= codec.elementsize <= MAX_ITEM_BYTES:
        raise ValueError("its elementsize must be the size of a number")
    return size


# Size of the encoded data, by the codec and the size of the decoded data. None of these filters
# executes code.
FILTER_SIZES: dict[str, Callable[[Codec, int], int]] = {
    "adler32": lambda codec, size: size + CHECKSUM_BYTES,
    "astype": _astype_size,
    "bitround": lambda codec, size: size,
    "crc32": lambda codec, size: size + CHECKSUM_BYTES,
    "delta": _dtype_size,
    "fixedscaleoffset": _scaled_size,
    "fletcher32": lambda codec, size: size + CHECKSUM_BYTES,
    # The first byte is the number of bits that are missing in the last one.
    "packbits": lambda codec, size: 1 + -(-size // 8),
    "quantize": _dtype_size,
    "shuffle": _shuffle_size,
}


class _StreamFormat(NamedTuple):
    """How streams follow each other in a chunk; as the modules of Python read them.

    Attributes
    ----------
    new
        Makes a decompressor of one stream, with a codec's options.
    max_streams
        Number of streams that are read; None reads all.
    later_errors
        Exceptions of later streams that are taken for the end of the data.
    has_padding
        Whether zeros may follow a stream.
    """

    new: Callable[[Any], Decompressor]
    max_streams: int | None = None
    later_errors: tuple[type[Exception], ...] = ()
    has_padding: bool = False


def _new_lzma(codec: Any) -> lzma.LZMADecompressor:
    if codec.format == lzma.FORMAT_RAW:
        return lzma.LZMADecompressor(codec.format, filters=codec.filters)
    return lzma.LZMADecompressor(codec.format, memlimit=MAX_LZMA_BYTES)


def _check_lzma(codec: Any) -> None:
    """Refuse options of lzma that take much memory, or are none."""
    if type(codec.format) is not int:
        raise ChunkError("the codec lzma has invalid options: its format must be a number")
    if codec.format != lzma.FORMAT_RAW:
        if codec.filters is not None:
            raise ChunkError("the codec lzma has invalid options: only raw data have filters")
        return
    # The decoder of raw data knows no limit of its own.
    try:
        sizes = [filter_.get("dict_size", 0) for filter_ in codec.filters]
        if max(sizes) > MAX_LZMA_BYTES:
            raise ChunkError(f"the codec lzma has a dictionary above {MAX_LZMA_BYTES >> 20} MiB")
        _new_lzma(codec)
    except ChunkError:
        raise
    except (*CODEC_ERRORS, AttributeError, MemoryError) as error:
        raise ChunkError(f"the codec lzma has invalid options: {error}") from None


def _unpack_streams(kind: _StreamFormat, raw: bytes, limit: int, codec: Any) -> bytes:
    """Unpack all streams of a chunk into at most `limit` bytes."""
    raw = memoryview(raw).tobytes()
    position, total, streams = 0, 0, 0
    pieces: list[bytes] = []

    def read() -> bytes:
        nonlocal position
        piece = raw[position : position + INPUT_BYTES]
        position += len(piece)
        return piece

    while position < len(raw) and streams != kind.max_streams:
        stream, own = kind.new(codec), []
        try:
            for piece in unpacked_pieces(read, stream):
                total += len(piece)
                if total > limit:
                    raise ChunkError(f"it unpacks to more than {limit} bytes")
                own.append(piece)
        except kind.later_errors:
            if not streams:
                raise
            break
        if not stream.eof:
            raise ChunkError("it is cut off")
        pieces += own
        position -= len(stream.unused_data)
        streams += 1
        if kind.has_padding:
            while raw[position : position + 1] == b"\0":
                position += 1
    return b"".join(pieces)


def _decode_blosc(raw: bytes, limit: int, codec: Codec) -> Any:
    return _decode_declared(raw, limit, codec, _blosc_size(raw))


def _decode_lz4(raw: bytes, limit: int, codec: Codec) -> Any:
    declared = int.from_bytes(raw[:4], "little") if len(raw) > 4 else None
    return _decode_declared(raw, limit, codec, declared)


def _decode_zstd(raw: bytes, limit: int, codec: Codec) -> Any:
    return _decode_declared(raw, limit, codec, zstd_size(raw))


def _decode_declared(raw: bytes, limit: int, codec: Codec, declared: int | None) -> Any:
    if declared is None:
        raise ChunkError("it is cut off, or its header is broken or does not declare its size")
    if declared > limit:
        raise ChunkError(f"its header says {declared} bytes, but a chunk has {limit}")
    return codec.decode(raw)


DECOMPRESSORS: dict[str, Callable[[bytes, int, Codec], Any]] = {
    "blosc": _decode_blosc,
    "lz4": _decode_lz4,
    "zstd": _decode_zstd,
    "gzip": partial(
        _unpack_streams,
        _StreamFormat(lambda codec: Inflate(16 + zlib.MAX_WBITS), has_padding=True),
    ),
    "zlib": partial(
        _unpack_streams, _StreamFormat(lambda codec: Inflate(zlib.MAX_WBITS), max_streams=1)
    ),
    "bz2": partial(
        _unpack_streams,
        _StreamFormat(lambda codec: bz2.BZ2Decompressor(), later_errors=(OSError,)),
    ),
    "lzma": partial(_unpack_streams, _StreamFormat(_new_lzma, later_errors=(lzma.LZMAError,))),
}


def _blosc_size(raw: bytes) -> int | None:
    """Size that the header of a Blosc 1 chunk declares; None if the header is not valid."""
    size, block, compressed = (int.from_bytes(raw[i : i + 4], "little") for i in (4, 8, 12))
    # Decoding allocates blocks; no chunk has larger ones than itself.
    is_valid = 16 <= compressed <= len(raw) and block <= max(size, 1)
    return size if is_valid else None


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
