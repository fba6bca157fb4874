"""Random access to the entries of a zip, fast for many small ones and bounded in memory.

Format: PKWARE's APPNOTE. `zipfile` reads the directory; each entry is verified against it. What is
refused here is what Python's `zipfile`, with which the evaluator unpacks a zip, stops at.
"""

from __future__ import annotations

import bz2
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from cellmap_pipeline.io.files import reading
from cellmap_pipeline.io.formats.streams import (
    PIECE_BYTES,
    Decompressor,
    Inflate,
    unpacked_pieces,
)

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
# Bytes read past an entry's data, so that a local header with extra fields rarely takes a second
# read.
EXTRA_FIELD_BYTES = 64
# Exceptions of `zipfile` for a broken directory.
DIRECTORY_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, ValueError, OSError, OverflowError, struct.error,
)  # fmt: skip
ENCRYPTED_FLAG, UTF8_FLAG = 0x1, 0x800
# Patched data, and encryption of the directory, with which `zipfile` reads nothing.
UNSUPPORTED_FLAGS = 0x20 | 0x40
# Preset 9 of lzma has a dictionary of 64 MiB.
MAX_DICTIONARY_BYTES = 1 << 27


def is_zip(path: str | Path) -> bool:
    """Whether there is a zip at `path`.

    Raises
    ------
    UnavailableError
        The file cannot be read now, which `zipfile.is_zipfile` takes for another kind of file.
    """
    with reading(path):
        if not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            file.read(1)
            return zipfile.is_zipfile(file)


class ZipReader(Mapping[str, bytes]):
    """Mapping from the names of a zip's entries to their contents, with verified checksums.

    It can be shared by threads and forked processes.

    Parameters
    ----------
    path
        Path of the zip.

    Raises
    ------
    UnavailableError
        The file cannot be read now; also when its entries are read.
    """

    def __init__(self, path: str | Path) -> None:
        with reading(path):
            with zipfile.ZipFile(path) as archive:
                self.entries = archive.infolist()
                end = archive.start_dir
            self._file = os.open(path, os.O_RDONLY)
        self.by_name = {entry.filename: entry for entry in self.entries}
        self.path = path
        # Where the data of an entry must end, by the entry: at the next entry, or the directory.
        self._ends: dict[int, int] = {}
        for entry in sorted(self.entries, key=lambda entry: entry.header_offset, reverse=True):
            self._ends[id(entry)] = end
            end = entry.header_offset

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    def __getitem__(self, name: str) -> bytes:
        return self.read(self.by_name[name])

    def read(self, entry: zipfile.ZipInfo, max_bytes: int | None = None) -> bytes:
        """Read the unpacked contents of an entry.

        Parameters
        ----------
        entry
            One of `entries`.
        max_bytes
            Size above which nothing is read.

        Raises
        ------
        zipfile.BadZipFile
            The entry is truncated, too large, or does not match the directory.
        """
        if max_bytes is not None and entry.file_size > max_bytes:
            raise zipfile.BadZipFile(
                f"it has {entry.file_size} bytes, but can have no more than {max_bytes}"
            )
        with reading(self.path):
            return b"".join(self._verified_pieces(entry))

    def verify(self, entry: zipfile.ZipInfo) -> None:
        """Read an entry piece by piece, in little memory; it raises as `read`."""
        with reading(self.path):
            for _ in self._verified_pieces(entry):
                pass

    def _verified_pieces(self, entry: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yield the contents of an entry, never more than `entry.file_size` bytes."""
        size, checksum = 0, 0
        try:
            for piece in self._pieces(entry):
                size += len(piece)
                if size > entry.file_size:
                    break
                checksum = zlib.crc32(piece, checksum)
                yield piece
        except (zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
            raise zipfile.BadZipFile(f"the entry cannot be unpacked: {error}") from None
        except OSError as error:
            if error.errno is not None:
                raise
            # As bz2 reports broken data.
            raise zipfile.BadZipFile(f"the entry cannot be unpacked: {error}") from None
        if size != entry.file_size or checksum != entry.CRC:
            raise zipfile.BadZipFile("size or checksum does not match the directory")

    def _pieces(self, entry: zipfile.ZipInfo) -> Iterator[bytes]:
        stored = self._stored_pieces(entry)
        if entry.compress_type == zipfile.ZIP_STORED:
            yield from stored
            return
        if entry.compress_type not in DECOMPRESSORS:
            raise zipfile.BadZipFile(f"the compression method {entry.compress_type} is not known")
        first = next(stored, b"")
        stream, rest = DECOMPRESSORS[entry.compress_type](first)
        pieces = _chained(rest, stored)
        yield from unpacked_pieces(lambda: next(pieces, b""), stream)

    def _stored_pieces(self, entry: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yield the data of an entry as stored, after a check of its local header."""
        if entry.flag_bits & ENCRYPTED_FLAG:
            raise zipfile.BadZipFile("the entry is encrypted")
        if entry.flag_bits & UNSUPPORTED_FLAGS:
            raise zipfile.BadZipFile("the entry is of a kind that Python cannot unpack")
        position, end = entry.header_offset, self._ends[id(entry)]
        if position < 0 or position + LOCAL_HEADER.size + entry.compress_size > end:
            raise zipfile.BadZipFile("the entry overlaps another one, or is cut off")
        name_bytes = len(entry.orig_filename.encode(_encoding(entry.flag_bits)))
        first_bytes = min(entry.compress_size, PIECE_BYTES)
        raw = os.pread(
            self._file, LOCAL_HEADER.size + name_bytes + first_bytes + EXTRA_FIELD_BYTES, position
        )
        if len(raw) < LOCAL_HEADER.size or raw[:4] != b"PK\3\4":
            raise zipfile.BadZipFile("the entry is not where the directory says")
        header = LOCAL_HEADER.unpack_from(raw)
        name_end = LOCAL_HEADER.size + header[-2]
        if raw[LOCAL_HEADER.size : name_end].decode(_encoding(header[2])) != entry.orig_filename:
            raise zipfile.BadZipFile("the entry has another name than in the directory")
        start = name_end + header[-1]
        if position + start + entry.compress_size > end:
            raise zipfile.BadZipFile("the entry overlaps another one, or is cut off")
        piece = raw[start : start + entry.compress_size]
        position, remaining = position + start, entry.compress_size
        while remaining:
            # The first piece may be cut short by a long extra field.
            piece = piece or os.pread(self._file, min(remaining, PIECE_BYTES), position)
            if not piece:
                raise zipfile.BadZipFile("the entry is cut off")
            yield piece
            position, remaining, piece = position + len(piece), remaining - len(piece), b""


def _encoding(flag_bits: int) -> str:
    return "utf-8" if flag_bits & UTF8_FLAG else "cp437"


def _chained(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _lzma_stream(data: bytes) -> tuple[Decompressor, bytes]:
    """Decompressor by the properties before the data, and the data (APPNOTE 5.8.8)."""
    if len(data) < 9 or int.from_bytes(data[2:4], "little") != 5:
        raise zipfile.BadZipFile("the entry has no properties of lzma")
    properties, dictionary = data[4], int.from_bytes(data[5:9], "little")
    if properties >= 9 * 5 * 5 or dictionary > MAX_DICTIONARY_BYTES:
        raise zipfile.BadZipFile("the entry has unusable properties of lzma")
    filters = [
        {
            "id": lzma.FILTER_LZMA1,
            "dict_size": dictionary,
            "lc": properties % 9,
            "lp": properties // 9 % 5,
            "pb": properties // 45,
        }
    ]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters), data[9:]


# Decompressors of an entry by its method, and the rest of its first data.
DECOMPRESSORS: dict[int, Callable[[bytes], tuple[Decompressor, bytes]]] = {
    zipfile.ZIP_DEFLATED: lambda data: (Inflate(-zlib.MAX_WBITS), data),
    zipfile.ZIP_BZIP2: lambda data: (bz2.BZ2Decompressor(), data),
    zipfile.ZIP_LZMA: _lzma_stream,
}
