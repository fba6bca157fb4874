"""Checks of a submission's zip itself, before any of its arrays is read."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cellmap_pipeline.scoring.zip_reader import ZipReader

Severity = Literal["rejected", "costs"]

# The portal's limit.
MAX_UNPACKED_BYTES = 50 * 2**30
MAX_METADATA_BYTES = 2**20
METADATA_NAMES = {".zgroup", ".zarray", ".zattrs"}
# Limit of common file systems.
MAX_NAME_BYTES = 255
# Compression methods that Python's zipfile always supports.
COMPRESSION_METHODS = {
    zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA
}  # fmt: skip

REPACK = "package the labels again"


@dataclass(frozen=True)
class Problem:
    """A problem of a submission.

    Attributes
    ----------
    severity
        `rejected`, or `costs`: accepted, but scored lower than it could be.
    crop, label
        Location of the problem; None if it concerns all crops or labels.
    message
        What is wrong and what to do.
    """

    severity: Severity
    crop: str | None
    label: str | None
    message: str

    def __str__(self) -> str:
        where = "/".join(name for name in (self.crop, self.label) if name)
        return f"{self.severity}: {where + ': ' if where else ''}{self.message}"


def rejection(message: str, crop: str | None = None, label: str | None = None) -> Problem:
    """Create a problem that gets the submission rejected."""
    return Problem("rejected", crop, label, message)


def entry_problems(entries: Sequence[zipfile.ZipInfo]) -> Iterator[Problem]:
    """Check the entries of a zip as listed in its directory."""
    total = sum(entry.file_size for entry in entries)
    if total > MAX_UNPACKED_BYTES:
        yield rejection(
            f"{total / 2**30:.1f} GiB unpacked, above the limit of "
            f"{MAX_UNPACKED_BYTES / 2**30:.0f} GiB: store labels compressed, on the manifest's grid"
        )
    folders = {name[:end] for name in {e.filename for e in entries} for end in _slashes(name)}
    seen = set()
    for entry in entries:
        name = entry.filename
        for message in _messages(entry, name in seen, name in folders):
            yield rejection(message, *crop_and_label(name))
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
    if entry.flag_bits & 1:
        yield f"{name} is encrypted: zip without a password"
    if entry.compress_type not in COMPRESSION_METHODS:
        yield (
            f"{name} is compressed by a method that Python cannot unpack ({entry.compress_type}): "
            "zip it stored or deflated"
        )
    if is_folder:
        yield f"{name} is a file and a folder at once: {REPACK}"
    if len(name) > MAX_NAME_BYTES and any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        yield f"the name {name[:40]}… is too long: {REPACK}"
    if parts[-1] == "zarr.json":
        yield f"{name} is zarr 3, the evaluator reads zarr 2: write it again with zarr_format=2"
    if parts[-1] in METADATA_NAMES and entry.file_size > MAX_METADATA_BYTES:
        yield f"{name} has {entry.file_size} bytes, far more than metadata take: {REPACK}"


def _slashes(name: str) -> list[int]:
    return [i for i, letter in enumerate(name) if letter == "/"]


def metadata_entries(entries: Sequence[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    """Select the entries with metadata of groups and arrays."""
    return (entry for entry in entries if entry.filename.rsplit("/", 1)[-1] in METADATA_NAMES)


def outside_root_problems(names: Sequence[str], root: str) -> Iterator[Problem]:
    """Find crops outside the zarr folder `root`."""
    outside = {
        name.split("/")[0]
        for name in names
        if not name.startswith(root) and name.endswith((".zarray", ".zgroup"))
    }
    if outside:
        yield rejection(
            f"{', '.join(sorted(outside)[:5])} lies outside the zarr folder {root}: put all crops "
            "into one"
        )


def group_problems(reader: ZipReader, root: str, crops: Sequence[str]) -> Iterator[Problem]:
    """Check the zarr groups of the root and of the crops."""
    for crop in (None, *crops):
        folder = f"{root}{crop + '/' if crop else ''}"
        if f"{folder}.zarray" in reader:
            where = "a crop" if crop else "the root"
            yield rejection(
                f"{folder}.zarray makes an array of {where}, which must be a group of labels: "
                "delete it",
                crop,
            )
        if f"{folder}.zgroup" not in reader:
            yield rejection(
                f"{folder}.zgroup is missing, which the format requires (the evaluator of 2026-06 "
                'adds it): add it with {"zarr_format": 2}',
                crop,
            )
            continue
        try:
            group = json.loads(reader[f"{folder}.zgroup"])
        except (ValueError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            yield rejection(
                f'{folder}.zgroup cannot be read ({error}): write it as {{"zarr_format": 2}}',
                crop,
            )
            continue
        if not isinstance(group, dict) or group.get("zarr_format") != 2:
            yield rejection(f'{folder}.zgroup does not say {{"zarr_format": 2}}: write it so', crop)


def crop_and_label(name: str) -> tuple[str | None, str | None]:
    """Find the crop and label that an entry belongs to."""
    parts = name.split("/")[:-1]
    crop = next((i for i, part in enumerate(parts) if part.startswith("crop")), None)
    if crop is None:
        return None, None
    return parts[crop], parts[crop + 1] if crop + 1 < len(parts) else None
