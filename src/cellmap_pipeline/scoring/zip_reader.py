"""Random access to the entries of a zip, fast for many small ones and bounded in memory.

Format: PKWARE's APPNOTE. `zipfile` reads the directory; each entry is verified against it.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from cellmap_pipeline.io.files import reading

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
# Bytes read past an entry's data, so that a local header with extra fields rarely takes a second
# read.
EXTRA_FIELD_BYTES = 64
# Exceptions of `zipfile` for a broken directory.
DIRECTORY_ERRORS = (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error)
FAST_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


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

    It can serve as a zarr store, and be shared by threads and forked processes.

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
            self._file = os.open(path, os.O_RDONLY)
        self.by_name = {entry.filename: entry for entry in self.entries}
        self.path = path

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
        """Read the unpacked contents of an entry, never more than `entry.file_size` bytes.

        Raises
        ------
        zipfile.BadZipFile
            The entry is truncated, or does not match the directory.
        """
        with reading(self.path):
            return self._read(entry)

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        if entry.compress_type not in FAST_METHODS:
            with zipfile.ZipFile(self.path) as archive, archive.open(entry) as stream:
                return stream.read(entry.file_size)
        name = len(entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437"))
        size = LOCAL_HEADER.size + name + entry.compress_size
        raw = os.pread(self._file, size + EXTRA_FIELD_BYTES, entry.header_offset)
        if len(raw) < LOCAL_HEADER.size or raw[:4] != b"PK\3\4":
            raise zipfile.BadZipFile("the entry is not where the directory says")
        *_, name, extra = LOCAL_HEADER.unpack_from(raw)
        start = LOCAL_HEADER.size + name + extra
        data = raw[start : start + entry.compress_size]
        if len(data) < entry.compress_size and extra > EXTRA_FIELD_BYTES:
            data = os.pread(self._file, entry.compress_size, entry.header_offset + start)
        if len(data) < entry.compress_size:
            raise zipfile.BadZipFile("the entry is cut off")
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.file_size + 1)
            except zlib.error as error:
                raise zipfile.BadZipFile(f"the entry cannot be unpacked: {error}") from None
        if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
            raise zipfile.BadZipFile("size or checksum does not match the directory")
        return data
