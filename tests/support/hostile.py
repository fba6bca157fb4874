"""Hostile submissions: small zips that ask for much memory or time, or break what they promise."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid

GRID = Grid((4, 4, 4), (0, 0, 0), (16, 16, 16))
MANIFEST = [CropLabel(1, "a-1", label, GRID) for label in ("er", "mito")]
GROUP = b'{"zarr_format": 2}'
ZARRAY: dict[str, Any] = {
    "zarr_format": 2, "shape": [16] * 3, "chunks": [8] * 3, "dtype": "|u1", "compressor": None,
    "fill_value": 0, "order": "C", "filters": None,
}  # fmt: skip
ZATTRS: dict[str, Any] = {"voxel_size": [4, 4, 4], "translation": [0, 0, 0]}
CHUNK = bytes(range(1, 2)) * 512
MUCH_BYTES = 2**31 - 1

Entries = dict[str, bytes]


def valid_entries() -> Entries:
    """Contents of a valid submission."""
    entries = {".zgroup": GROUP, "crop1/.zgroup": GROUP}
    for row in MANIFEST:
        folder = f"crop1/{row.label}"
        entries[f"{folder}/.zarray"] = json.dumps(ZARRAY).encode()
        entries[f"{folder}/.zattrs"] = json.dumps(ZATTRS).encode()
        for z, y, x in np.ndindex(2, 2, 2):
            entries[f"{folder}/{z}.{y}.{x}"] = CHUNK
    return entries


def write_zip(path: Path, entries: Entries, method: int = zipfile.ZIP_STORED) -> None:
    """Write entries in their order."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)


def with_zarray(entries: Entries, **changes: Any) -> Entries:
    """Change the metadata of crop1/er; the value `...` removes a key."""
    stored = {k: v for k, v in (ZARRAY | changes).items() if v is not ...}
    return entries | {"crop1/er/.zarray": json.dumps(stored).encode()}


def with_zattrs(entries: Entries, **changes: Any) -> Entries:
    """Change the attributes of crop1/er."""
    return entries | {"crop1/er/.zattrs": json.dumps(ZATTRS | changes).encode()}


def with_chunks(entries: Entries, chunk: bytes, **changes: Any) -> Entries:
    """Replace all chunks of crop1/er, and change its metadata."""
    chunks = {
        name: chunk for name in entries if name.startswith("crop1/er/") and name[-1].isdigit()
    }
    return with_zarray(entries | chunks, **changes)


def spoiled(change: Callable[[Entries], Entries]) -> Callable[[Path], None]:
    """Writer of a zip with other contents."""
    return lambda path: write_zip(path, change(valid_entries()))


def patched(change: Callable[[bytearray], object], entries: Entries | None = None):
    """Writer of a zip whose bytes are changed afterwards."""

    def write(path: Path) -> None:
        write_zip(path, entries or valid_entries())
        content = bytearray(path.read_bytes())
        change(content)
        path.write_bytes(content)

    return write


def local_header(content: bytearray, name: str) -> int:
    """Position of the local header of an entry."""
    return _directory_entry(content, name)[1]


def directory_entry(content: bytearray, name: str) -> int:
    """Position of an entry of the directory."""
    return _directory_entry(content, name)[0]


def _directory_entry(content: bytearray, name: str) -> tuple[int, int]:
    at = content.index(b"PK\1\2")
    while content[at : at + 4] == b"PK\1\2":
        lengths = struct.unpack_from("<3H", content, at + 28)
        if content[at + 46 : at + 46 + lengths[0]] == name.encode():
            return at, struct.unpack_from("<L", content, at + 42)[0]
        at += 46 + sum(lengths)
    raise KeyError(name)


def set_field(name: str, offset: int, data: bytes) -> Callable[[bytearray], object]:
    """Change bytes of an entry of the directory, `offset` bytes from its start."""

    def change(content: bytearray) -> None:
        at = directory_entry(content, name) + offset
        content[at : at + len(data)] = data

    return change


def set_local(name: str, offset: int, data: bytes) -> Callable[[bytearray], object]:
    """Change bytes of an entry's local header, or of its data."""

    def change(content: bytearray) -> None:
        at = local_header(content, name) + offset
        content[at : at + len(data)] = data

    return change


def method_bomb(method: int, size: int, name: str = "crop1/er/0.0.0") -> Callable[[Path], None]:
    """Writer of a zip with one entry of `size` zeros."""

    def write(path: Path) -> None:
        write_zip(path, {k: v for k, v in valid_entries().items() if k != name})
        with zipfile.ZipFile(path, "a") as archive:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=True) as stream:
                zeros = bytes(1 << 24)
                for start in range(0, size, len(zeros)):
                    stream.write(zeros[: min(len(zeros), size - start)])

    return write


def same_data_twice(content: bytearray) -> None:
    """Let two entries of the directory share one local header."""
    at = directory_entry(content, "crop1/er/0.0.1")
    content[at + 42 : at + 46] = local_header(content, "crop1/er/0.0.0").to_bytes(4, "little")


def zip64_extra(name: str, values: tuple[int, ...], sizes: bool) -> Callable[[Path], None]:
    """Writer of a zip whose directory gives sizes, or an offset, of an entry in 64 bits."""

    def write(path: Path) -> None:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for entry, content in valid_entries().items():
                info = zipfile.ZipInfo(entry)
                archive.writestr(info, content)
            info = archive.getinfo(name)
            info.extra = struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)
        content = bytearray(data.getvalue())
        at = directory_entry(content, name)
        fields = slice(at + 20, at + 28) if sizes else slice(at + 42, at + 46)
        content[fields] = b"\xff" * (fields.stop - fields.start)
        path.write_bytes(content)

    return write


def long_names(path: Path, number: int = 100) -> None:
    """Names of 64 KB with as many folders as fit."""
    names = {f"{i}/" + "a/" * 32_000 + "x": b"" for i in range(number)}
    write_zip(path, valid_entries() | names)


def filter_chain(path: Path) -> None:
    """A chunk of 512 bytes, from filters that ask for 64 GiB in between."""
    filters = [{"id": "astype", "encode_dtype": "<f8", "decode_dtype": "|u1"}] * 8
    write_zip(path, with_chunks(valid_entries(), CHUNK, filters=filters))


def packbits_chain(path: Path) -> None:
    """A chunk whose filters multiply its size by 8, each."""
    filters = [{"id": "packbits"}] * 9
    chunk = zlib.compress(bytes(512))
    compressor = {"id": "zlib", "level": 1}
    write_zip(path, with_chunks(valid_entries(), chunk, filters=filters, compressor=compressor))


def astype_of_much(path: Path) -> None:
    """A chunk that unpacks to much more than the filters' input."""
    filters = [{"id": "packbits"}, {"id": "packbits"}]
    compressor = {"id": "zlib", "level": 1}
    chunk = zlib.compress(bytes(2**26))
    shape = {"shape": [16] * 3, "chunks": [1024, 512, 512]}
    write_zip(
        path, with_chunks(valid_entries(), chunk, filters=filters, compressor=compressor, **shape)
    )


def bomb(compress: Callable[[bytes], bytes], **compressor: Any) -> Callable[[Path], None]:
    """Writer of chunks that unpack to much more than a chunk."""
    return spoiled(lambda e: with_chunks(e, compress(bytes(2**28)), compressor=compressor))


LZMA = {"id": "lzma", "format": 1, "check": -1, "preset": None, "filters": None}

# Inputs that once took gigabytes, or did not end.
BOMBS: dict[str, Callable[[Path], None]] = {
    "a deflated entry of 2 GB": method_bomb(zipfile.ZIP_DEFLATED, MUCH_BYTES),
    "a bzip2 entry of 2 GB": method_bomb(zipfile.ZIP_BZIP2, MUCH_BYTES),
    "a lzma entry of 1 GB": method_bomb(zipfile.ZIP_LZMA, 2**30),
    "metadata of 1 GB": method_bomb(zipfile.ZIP_BZIP2, 2**30, "crop1/er/.zattrs"),
    "long names": long_names,
    "filters that multiply the size": packbits_chain,
    "filters of another type": filter_chain,
    "filters after a bomb": astype_of_much,
    "a gzip bomb": bomb(lambda data: gzip.compress(data, 1), id="gzip", level=1),
    "a bz2 bomb": bomb(bz2.compress, id="bz2", level=1),
    "a lzma bomb": bomb(lambda data: lzma.compress(data, preset=0), **LZMA),
    "chunks of one voxel": spoiled(lambda e: with_zarray(e, chunks=[1] * 3, shape=[256] * 3)),
    "chunks of one voxel, and filled": spoiled(
        lambda e: with_zarray(e, chunks=[1] * 3, shape=[256, 256, 200], fill_value=1)
    ),
    "a huge shape": spoiled(lambda e: with_zarray(e, chunks=[2**30] * 3, shape=[2**39] * 3)),
    "a chunk of 2 GiB": spoiled(lambda e: with_zarray(e, chunks=[2**11, 2**10, 2**10])),
}  # fmt: skip
