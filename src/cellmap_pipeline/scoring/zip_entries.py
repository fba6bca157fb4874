"""Checks of the entries of a zip as its directory lists them, which all readers of zips share."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.scoring.zip_reader import (
    DECOMPRESSORS,
    ENCRYPTED_FLAG,
    UNSUPPORTED_FLAGS,
)

# The portal's limit.
MAX_UNPACKED_BYTES = 50 * 2**30
# A smaller one for a small manifest: ids of 64 bits on a grid of half the voxel size.
MAX_BYTES_PER_VOXEL = 64
MAX_OTHER_BYTES = 2**30
# Limit of common file systems for one name, and what no path of a submission exceeds. Work and
# memory grow with the product of a path's length and depth.
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_PATH_DEPTH = 32
MAX_NAMED_ENTRIES = 100

REPACK = "package the labels again"


class EntryProblem(NamedTuple):
    """A defect of an entry, or of the whole zip if `name` is empty."""

    name: str
    message: str


def entry_problems(
    entries: Sequence[zipfile.ZipInfo], manifest: Sequence[CropLabel] | None = None
) -> list[EntryProblem]:
    """Find the entries at which unpacking stops, or that would leave the archive.

    If a path is too long, only such paths are listed: nothing else may be done with them.

    Parameters
    ----------
    entries
        Entries of the zip's directory.
    manifest
        Labels that it should hold, which bound its size; None bounds it as the portal does.
    """
    found = list(_path_problems(entries)) or list(_listed_problems(entries))
    if len(found) > MAX_NAMED_ENTRIES:
        text = f"{len(found) - MAX_NAMED_ENTRIES} more entries are wrong: {REPACK}"
        found[MAX_NAMED_ENTRIES:] = [EntryProblem("", text)]
    if size := size_problem(entries, manifest):
        found.insert(0, EntryProblem("", size))
    return found


def size_problem(
    entries: Sequence[zipfile.ZipInfo], manifest: Sequence[CropLabel] | None
) -> str | None:
    """Describe by how much all entries are too large, or return None; see `entry_problems`."""
    limit, whose = MAX_UNPACKED_BYTES, "the portal"
    if manifest is not None:
        voxels = sum(row.grid.size for row in manifest)
        of_manifest = MAX_OTHER_BYTES + MAX_BYTES_PER_VOXEL * voxels
        if of_manifest < limit:
            limit, whose = of_manifest, "this manifest"
    total = unpacked_bytes(entries)
    if total <= limit:
        return None
    return (
        f"{total / 2**30:.1f} GiB unpacked, above the limit of {limit / 2**30:.1f} GiB for "
        f"{whose}: store labels compressed, on the manifest's grid, and nothing else"
    )


def unpacked_bytes(entries: Sequence[zipfile.ZipInfo]) -> int:
    """Size of all entries according to the directory."""
    return sum(entry.file_size for entry in entries)


def has_bounded_path(entry: zipfile.ZipInfo) -> bool:
    """Whether the path of an entry is short enough to be looked at."""
    name = entry.filename
    if len(name) > MAX_PATH_BYTES or name.count("/") > MAX_PATH_DEPTH:
        return False
    return all(len(part.encode(errors="replace")) <= MAX_NAME_BYTES for part in name.split("/"))


def _path_problems(entries: Sequence[zipfile.ZipInfo]) -> Iterator[EntryProblem]:
    for entry in entries:
        if not has_bounded_path(entry):
            # Without a name, which is not to be looked at.
            yield EntryProblem("", f"the name {entry.filename[:40]}… is too long: {REPACK}")


def _listed_problems(entries: Sequence[zipfile.ZipInfo]) -> Iterator[EntryProblem]:
    folders = {name[:end] for name in {e.filename for e in entries} for end in _slashes(name)}
    seen = set()
    for entry in entries:
        name = entry.filename
        for message in _messages(entry, name in seen, name in folders):
            yield EntryProblem(name, message)
        seen.add(name)


def _messages(entry: zipfile.ZipInfo, is_duplicate: bool, is_folder: bool) -> Iterator[str]:
    name = entry.filename
    parts = name.split("/")
    if is_duplicate:
        yield f"{name} is in the zip twice: {REPACK}"
    if stat.S_ISLNK(entry.external_attr >> 16):
        yield f"{name} is a link: replace it by the file that it points to"
    if name.startswith("/") or ".." in parts or "\\" in name or name.strip("./") == "":
        yield f"{name!r} leaves the archive: {REPACK}"
    if "\0" in entry.orig_filename:
        yield f"the name {entry.orig_filename!r} holds a zero: {REPACK}"
    if entry.flag_bits & ENCRYPTED_FLAG:
        yield f"{name} is encrypted: zip without a password"
    if entry.flag_bits & UNSUPPORTED_FLAGS:
        yield f"{name} is patched or encrypted in a way that Python cannot unpack: {REPACK}"
    if entry.compress_type != zipfile.ZIP_STORED and entry.compress_type not in DECOMPRESSORS:
        yield (
            f"{name} is compressed by a method that Python cannot unpack ({entry.compress_type}): "
            "zip it stored or deflated"
        )
    if is_folder:
        yield f"{name} is a file and a folder at once: {REPACK}"


def _slashes(name: str) -> list[int]:
    return [i for i, letter in enumerate(name) if letter == "/"]
