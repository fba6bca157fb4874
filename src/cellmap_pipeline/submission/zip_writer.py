"""Writing a zip of stored entries: one pass, constant memory, the same bytes for the same entries.

Format: PKWARE's APPNOTE 6.3.10, with Zip64 where offsets or the number of entries need it.
`zipfile` goes back to each header when the entry is written, which here costs more than the entry.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from isal import isal_zlib

STORED_VERSION, ZIP64_VERSION = 20, 45
UTF8_NAME = 0x800
# 1980-01-01 00:00, the first that a zip can say.
TIME, DATE = 0, 0x21
UNIX = 3
PLAIN_FILE = 0o100644 << 16

MAX_32, MAX_16 = 0xFFFFFFFF, 0xFFFF

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
ZIP64_OFFSET = struct.Struct("<2HQ")
ZIP64_END = struct.Struct("<4sQ2H2L4Q")
ZIP64_LOCATOR = struct.Struct("<4sLQL")
END = struct.Struct("<4s4H2LH")


@dataclass(frozen=True)
class Entry:
    """What the directory says of an entry: its name, CRC-32, and bytes."""

    name: bytes
    checksum: int
    size: int

    def header(self) -> tuple[int, ...]:
        """The fields that an entry's own header and the directory share."""
        flags = 0 if self.name.isascii() else UTF8_NAME
        return flags, 0, TIME, DATE, self.checksum, self.size, self.size, len(self.name)


@dataclass(frozen=True)
class Segment:
    """Entries as they lie in the zip, one after the other; made aside, as by a thread."""

    data: bytes | memoryview
    entries: list[Entry]

    @classmethod
    def of_bytes(cls, name: str, data: bytes) -> Segment:
        """An entry that holds `data`."""
        entry = Entry(name.encode(), isal_zlib.crc32(data), _checked(name, len(data)))
        header = LOCAL.pack(b"PK\3\4", STORED_VERSION, *entry.header(), 0)
        return cls(header + entry.name + data, [entry])

    @classmethod
    def of_files(cls, files: Sequence[tuple[str, str]]) -> Segment:
        """Entries of (name, path) each, that hold the files' bytes."""
        # Unbuffered and into one piece of memory: small files take longer to open than to copy.
        opened = [os.open(path, os.O_RDONLY) for _, path in files]
        sizes = [
            _checked(path, os.fstat(file).st_size)
            for file, (_, path) in zip(opened, files, strict=True)
        ]
        names = [name.encode() for name, _ in files]
        # Not a bytearray, which would be filled with zeros first.
        view = np.empty(sum(sizes) + sum(LOCAL.size + len(name) for name in names), np.uint8).data
        position, entries = 0, []
        for file, name, size, (_, path) in zip(opened, names, sizes, files, strict=True):
            start = position + LOCAL.size + len(name)
            content = view[start : start + size]
            if os.readv(file, [content]) != size:
                raise OSError(f"{path} changed while it was read")
            os.close(file)
            entry = Entry(name, isal_zlib.crc32(content), size)
            LOCAL.pack_into(view, position, b"PK\3\4", STORED_VERSION, *entry.header(), 0)
            view[position + LOCAL.size : start] = name
            position = start + size
            entries.append(entry)
        return cls(view, entries)


class ZipWriter:
    """Writes entries one after the other, then the directory.

    Parameters
    ----------
    file
        Open for writing, at the place where the first entry is to start.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = file.tell()
        self._directory = bytearray()
        self._entries = 0

    def add(self, segment: Segment) -> None:
        """Write some entries."""
        self._file.write(segment.data)
        for entry in segment.entries:
            offset, version, extra = self._position, STORED_VERSION, b""
            if offset >= MAX_32:
                extra = ZIP64_OFFSET.pack(1, 8, offset)
                offset, version = MAX_32, ZIP64_VERSION
            self._directory += CENTRAL.pack(
                b"PK\1\2", UNIX << 8 | version, version, *entry.header(), len(extra), 0, 0, 0,
                PLAIN_FILE, offset,
            )  # fmt: skip
            self._directory += entry.name + extra
            self._position += LOCAL.size + len(entry.name) + entry.size
        self._entries += len(segment.entries)

    def finish(self) -> None:
        """Write the directory."""
        size, offset, entries = len(self._directory), self._position, self._entries
        self._file.write(self._directory)
        if entries >= MAX_16 or size >= MAX_32 or offset >= MAX_32:
            self._file.write(
                ZIP64_END.pack(
                    b"PK\6\6", ZIP64_END.size - 12, UNIX << 8 | ZIP64_VERSION, ZIP64_VERSION, 0, 0,
                    entries, entries, size, offset,
                )
            )  # fmt: skip
            self._file.write(ZIP64_LOCATOR.pack(b"PK\6\7", 0, offset + size, 1))
        counted = min(entries, MAX_16)
        end = END.pack(b"PK\5\6", 0, 0, counted, counted, min(size, MAX_32), min(offset, MAX_32), 0)
        self._file.write(end)


def _checked(name: str, size: int) -> int:
    if size >= MAX_32:
        raise ValueError(f"{name} has {size} bytes, but an entry must have less than 4 GiB")
    return size
