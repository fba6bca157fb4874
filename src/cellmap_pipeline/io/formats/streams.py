"""Decompression of streams piece by piece, so that memory does not depend on what they claim."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

PIECE_BYTES = 1 << 20


class Decompressor(Protocol):
    """A decompressor of one stream, such as those of bz2 and lzma."""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether more output takes more input."""

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Unpack up to `max_length` bytes."""


class Inflate:
    """A decompressor of one zlib, gzip or raw deflate stream.

    Parameters
    ----------
    wbits
        Kind of the stream, as for `zlib.decompressobj`.
    """

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)
        self._is_full = False

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        """Whether more output takes more input."""
        return not self._is_full and not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the stream."""
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Unpack up to `max_length` bytes."""
        unpacked = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self._is_full = len(unpacked) == max_length
        return unpacked


def unpacked_pieces(read: Callable[[], bytes], stream: Decompressor) -> Iterator[bytes]:
    """Unpack a stream in pieces of up to `PIECE_BYTES`.

    Parameters
    ----------
    read
        Returns the next piece of input, empty at its end. If the input ends before the stream,
        `stream.eof` is False in the end.
    stream
        Decompressor of the stream. Its errors are raised as they are.
    """
    while not stream.eof:
        data = b""
        if stream.needs_input:
            data = read()
            if not data:
                return
        unpacked = stream.decompress(data, PIECE_BYTES)
        if unpacked:
            yield unpacked
