"""Entries of a zip read by their place in the file: fast for very many small ones, and bounded.

Format: PKWARE's APPNOTE. The directory is read by `zipfile`; what it says of an entry is held
against the entry itself.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from isal import isal_zlib

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
# Extra fields of a local header that are read along with it.
GUESSED_EXTRA = 64
# What `zipfile` raises on a directory that is broken.
UNREADABLE = (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error)
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


class ZipReader(Mapping[str, bytes]):
    """The entries of a zip by name; their checksums are held against the directory.

    Zarr takes it as a store. Threads, and processes that are forked, can share it.

    Parameters
    ----------
    path
        Of the zip.
    """

    def __init__(self, path: str | Path) -> None:
        with zipfile.ZipFile(path) as archive:
            self.entries = archive.infolist()
        self.by_name = {entry.filename: entry for entry in self.entries}
        self.path = path
        self._file = os.open(path, os.O_RDONLY)

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

    def read(self, entry: zipfile.ZipInfo) -> bytes:
        """The unpacked bytes of an entry, `entry.file_size` of them and never more.

        Raises
        ------
        zipfile.BadZipFile
            The entry is cut off, or not what the directory says.
        """
        if entry.compress_type not in METHODS:
            with zipfile.ZipFile(self.path) as archive, archive.open(entry) as stream:
                return stream.read(entry.file_size)
        name = len(entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437"))
        size = LOCAL_HEADER.size + name + entry.compress_size
        raw = os.pread(self._file, size + GUESSED_EXTRA, entry.header_offset)
        if len(raw) < LOCAL_HEADER.size or raw[:4] != b"PK\3\4":
            raise zipfile.BadZipFile("the entry is not where the directory says")
        *_, name, extra = LOCAL_HEADER.unpack_from(raw)
        start = LOCAL_HEADER.size + name + extra
        data = raw[start : start + entry.compress_size]
        if len(data) < entry.compress_size and extra > GUESSED_EXTRA:
            data = os.pread(self._file, entry.compress_size, entry.header_offset + start)
        if len(data) < entry.compress_size:
            raise zipfile.BadZipFile("the entry is cut off")
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.file_size + 1)
            except zlib.error as error:
                raise zipfile.BadZipFile(f"the entry cannot be unpacked: {error}") from None
        if len(data) != entry.file_size or isal_zlib.crc32(data) != entry.CRC:
            raise zipfile.BadZipFile("size or checksum are not what the directory says")
        return data
