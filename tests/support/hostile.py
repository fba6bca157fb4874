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
# Size of what small inputs unpack to; a multiple of what readers may take.
MUCH_BYTES = 2**27

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


def long_names(path: Path, number: int = 8) -> None:
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
    return spoiled(lambda e: with_chunks(e, compress(bytes(MUCH_BYTES)), compressor=compressor))


LZMA: dict[str, Any] = {"id": "lzma", "format": 1, "check": -1, "preset": None, "filters": None}

# Inputs that once took gigabytes, or did not end.
BOMBS: dict[str, Callable[[Path], None]] = {
    "a deflated entry": method_bomb(zipfile.ZIP_DEFLATED, MUCH_BYTES),
    "a bzip2 entry": method_bomb(zipfile.ZIP_BZIP2, MUCH_BYTES),
    "a lzma entry": method_bomb(zipfile.ZIP_LZMA, MUCH_BYTES),
    "metadata": method_bomb(zipfile.ZIP_BZIP2, MUCH_BYTES, "crop1/er/.zattrs"),
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


def raw_deflate(data: bytes) -> bytes:
    """Compress as in a zip."""
    stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def broken_deflate(path: Path) -> None:
    """A file that no label needs, whose data are no deflate stream."""
    write_zip(path, valid_entries() | {"crop1/notes.txt": b"x" * 1000}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    at = local_header(content, "crop1/notes.txt") + 30 + len("crop1/notes.txt")
    content[at : at + 2] = b"\xff\xff"
    path.write_bytes(content)


WITH_NOTES = valid_entries() | {"notes.txt": b"text", "crop1/er/notes.txt": b"text"}
GZIP, ZLIB, BZ2 = ({"id": name, "level": 1} for name in ("gzip", "zlib", "bz2"))

# Zips at which the evaluator stops, and the text that says so.
REFUSED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "another name in the local header": (
        "another name than in the directory", patched(set_local("crop1/er/0.0.0", 30, b"CROP"))
    ),
    "overlapping entries": ("overlaps another", patched(same_data_twice)),
    "an offset before the file": (
        "overlaps another", zip64_extra("crop1/er/0.0.0", (2**63,), sizes=False)
    ),
    "an offset after the file": (
        "overlaps another", zip64_extra("crop1/er/0.0.0", (2**40,), sizes=False)
    ),
    "sizes of 64 bits": (
        "can have no more than", zip64_extra("crop1/er/0.0.0", (2**63, 2**63), sizes=True)
    ),
    "strong encryption": ("Python cannot unpack", patched(set_field("crop1/.zgroup", 8, b"\x40"))),
    "patched data": ("Python cannot unpack", patched(set_field("crop1/.zgroup", 8, b"\x20"))),
    "encryption": ("is encrypted", patched(set_field("crop1/er/0.0.0", 8, b"\x01"))),
    "a wrong checksum in another file": (
        "checksum", patched(set_field("notes.txt", 16, b"1234"), WITH_NOTES)
    ),
    "a wrong checksum in another file of a label": (
        "checksum", patched(set_field("crop1/er/notes.txt", 16, b"1234"), WITH_NOTES)
    ),
    "broken data in another file": ("cannot be unpacked", broken_deflate),
    "5000 nested folders": (
        "is too long", spoiled(lambda e: e | {"a/" * 5000 + "x": b""})
    ),
    "a path out of the archive": ("leaves the archive", spoiled(lambda e: e | {"../x": b""})),
    "gzip without its trailer": (
        "it is cut off",
        spoiled(lambda e: with_chunks(e, gzip.compress(CHUNK)[:-8], compressor=GZIP)),
    ),
    "zlib without its trailer": (
        "it is cut off",
        spoiled(lambda e: with_chunks(e, zlib.compress(CHUNK)[:-4], compressor=ZLIB)),
    ),
    "gzip with garbage behind it": (
        "chunk", spoiled(lambda e: with_chunks(e, gzip.compress(CHUNK) + b"x", compressor=GZIP))
    ),
    "a blosc header with huge blocks": (
        "header is broken",
        spoiled(
            lambda e: with_chunks(
                e, b"\2\1\0\1" + struct.pack("<3L", 512, 2**29, 20) + bytes(4),
                compressor={"id": "blosc", "cname": "lz4", "clevel": 1, "shuffle": 0},
            )
        ),
    ),
    "lz4 of three bytes": (
        "header is broken", spoiled(lambda e: with_chunks(e, b"\0" * 3, compressor={"id": "lz4"}))
    ),
    "a list as scale": (
        "must be numbers",
        spoiled(
            lambda e: with_zarray(
                e,
                filters=[
                    {"id": "fixedscaleoffset", "scale": [[1]] * 1000, "offset": 0, "dtype": "|u1"}
                ],
            )
        ),
    ),
    "raw lzma with a large dictionary": (
        "has a dictionary above",
        spoiled(
            lambda e: with_zarray(
                e,
                compressor=LZMA
                | {"format": 3, "filters": [{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]},
            )
        ),
    ),
    "a voxel size of 4,000 digits": (
        "`0`: ", spoiled(lambda e: with_zattrs(e, voxel_size=[10**4000, 4, 4]))
    ),
    "a voxel size of 5,000 digits": (
        "cannot be read",
        spoiled(lambda e: e | {"crop1/er/.zattrs": b'{"voxel_size": [1' + b"0" * 5000 + b"]}"}),
    ),
    "a voxel size as text": ("`0`: ", spoiled(lambda e: with_zattrs(e, voxel_size=["4"] * 3))),
}  # fmt: skip

# Values of `.zarray` that are wrong; the message names their key.
WRONG_METADATA: dict[str, dict[str, Any]] = {
    "chunks of 0": {"chunks": [0, 8, 8]},
    "negative chunks": {"chunks": [-8, 8, 8]},
    "chunks of floats": {"chunks": [8.0, 8, 8]},
    "chunks of text": {"chunks": "888"},
    "2 axes of chunks": {"chunks": [8, 8]},
    "4 axes of chunks": {"chunks": [8] * 4},
    "a negative shape": {"shape": [-16, 16, 16]},
    "a shape of floats": {"shape": [16.5, 16, 16]},
    "a shape of booleans": {"shape": [True] * 3},
    "a huge shape": {"shape": [10**4000, 16, 16]},
    "an unknown order": {"order": "X"},
    "a separator that is a number": {"dimension_separator": 1},
    "another separator": {"dimension_separator": "-"},
    "a list as fill value": {"fill_value": [0]},
    "a fill value that does not fit": {"fill_value": 300},
    "a negative fill value": {"fill_value": -1},
    "text as fill value": {"fill_value": "x"},
    "a huge fill value": {"fill_value": 10**4000},
    "lzma with a format of text": {"compressor": LZMA | {"format": "xz"}},
    "lzma with filters of text": {"compressor": LZMA | {"format": 3, "filters": ["x"]}},
    "a compressor without a name": {"compressor": {}},
    "a compressor as text": {"compressor": "gzip"},
    "a compressor that is not known": {"compressor": {"id": ["gzip"]}},
    "filters as text": {"filters": "delta"},
    "a filter of wrong types": {"filters": [{"id": "delta", "dtype": "O"}]},
    "a filter of text": {"filters": [{"id": "astype", "encode_dtype": "U9", "decode_dtype": "u1"}]},
    "objects": {"dtype": "|O"},
    "records": {"dtype": [["a", "<u4"]]},
    "no type": {"dtype": "what"},
    "text": {"dtype": "<U99999999"},
    "no chunks": {"chunks": ...},
    "no filters": {"filters": ...},
    "zarr 3": {"zarr_format": 3},
}

# Chunks that zarr reads, though few tools write them.
RARE_CHUNKS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "gzip of two members": (
        gzip.compress(CHUNK[:100]) + gzip.compress(CHUNK[100:]), {"compressor": GZIP}
    ),
    "gzip with zeros behind it": (gzip.compress(CHUNK) + bytes(10), {"compressor": GZIP}),
    "bz2 of two streams": (bz2.compress(CHUNK[:9]) + bz2.compress(CHUNK[9:]), {"compressor": BZ2}),
    "bz2 with garbage behind it": (bz2.compress(CHUNK) + b"garbage", {"compressor": BZ2}),
    "zlib with garbage behind it": (zlib.compress(CHUNK) + b"garbage", {"compressor": ZLIB}),
    "lzma of two streams": (
        lzma.compress(CHUNK[:9]) + lzma.compress(CHUNK[9:]), {"compressor": LZMA}
    ),
    "lzma_alone": (
        lzma.compress(CHUNK, lzma.FORMAT_ALONE), {"compressor": LZMA | {"format": 2}}
    ),
    "packbits": (b"\0" + b"\xff" * 64, {"filters": [{"id": "packbits"}], "dtype": "|b1"}),
    "astype": (
        np.frombuffer(CHUNK, "u1").astype("<u4").tobytes(),
        {"filters": [{"id": "astype", "encode_dtype": "<u4", "decode_dtype": "|u1"}]},
    ),
    "crc32": (
        zlib.crc32(CHUNK).to_bytes(4, "little") + CHUNK,
        {"filters": [{"id": "crc32", "location": "start"}]},
    ),
}  # fmt: skip
