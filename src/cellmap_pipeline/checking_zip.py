"""What is wrong with a submission's zip itself, before any array in it is read."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from cellmap_pipeline.zip_reader import ZipReader

Severity = Literal["rejected", "costs"]

# The portal's limit on the unpacked size.
MAX_BYTES = 50 * 2**30
# Metadata are far smaller; more would only fill the memory.
MAX_METADATA_BYTES = 2**20
METADATA = {".zgroup", ".zarray", ".zattrs"}
# Of file systems: bytes of a name.
MAX_NAME_BYTES = 255
# What Python's zipfile unpacks everywhere.
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}

REPACK = "package the labels again"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a submission.

    Parameters
    ----------
    severity : `rejected`, or `costs`: accepted, but scored lower than it could be.
    crop, label : where; None where it concerns all.
    message : what is wrong and what to do.
    """

    severity: Severity
    crop: str | None
    label: str | None
    message: str

    def __str__(self) -> str:
        where = "/".join(name for name in (self.crop, self.label) if name)
        return f"{self.severity}: {where + ': ' if where else ''}{self.message}"


def rejected(message: str, crop: str | None = None, label: str | None = None) -> Problem:
    """A problem for which the submission is refused."""
    return Problem("rejected", crop, label, message)


def entry_problems(entries: Sequence[zipfile.ZipInfo]) -> Iterator[Problem]:
    """What is wrong with the entries of a zip by what its directory says."""
    total = sum(entry.file_size for entry in entries)
    if total > MAX_BYTES:
        yield rejected(
            f"{total / 2**30:.1f} GiB unpacked, above the limit of {MAX_BYTES / 2**30:.0f} GiB: "
            "store labels compressed, on the manifest's grid"
        )
    folders = {
        parent.as_posix() for entry in entries for parent in PurePosixPath(entry.filename).parents
    }
    seen = set()
    for entry in entries:
        name = PurePosixPath(entry.filename)
        place = place_of(name)
        if entry.filename in seen:
            yield rejected(f"{name} is in the zip twice: {REPACK}", *place)
        seen.add(entry.filename)
        if stat.S_ISLNK(entry.external_attr >> 16):
            yield rejected(f"{name} is a link: put in the file that it points to", *place)
        if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or not name.parts:
            yield rejected(f"{entry.filename!r} leaves the archive: {REPACK}")
        if entry.flag_bits & 1:
            yield rejected(f"{name} is encrypted: zip without a password", *place)
        if entry.compress_type not in METHODS:
            yield rejected(
                f"{name} is packed by a method that Python cannot unpack "
                f"({entry.compress_type}): zip it stored or deflated",
                *place,
            )
        if not entry.is_dir() and name.as_posix() in folders:
            yield rejected(f"{name} is a file and a folder at once: {REPACK}", *place)
        if any(len(part.encode()) > MAX_NAME_BYTES for part in name.parts):
            yield rejected(f"the name {entry.filename[:40]!r}… is too long: {REPACK}", *place)
        if name.name == "zarr.json":
            yield rejected(
                f"{name} is zarr 3, the evaluator reads zarr 2: write it again with zarr_format=2",
                *place,
            )
        if name.name in METADATA and entry.file_size > MAX_METADATA_BYTES:
            yield rejected(
                f"{name} has {entry.file_size} bytes, far more than metadata take: {REPACK}", *place
            )


def beside_problems(entries: Sequence[str], root: str) -> Iterator[Problem]:
    """Crops that lie beside the zarr folder `root`."""
    beside = {
        name.split("/")[0]
        for name in entries
        if not name.startswith(root) and name.endswith((".zarray", ".zgroup"))
    }
    if beside:
        yield rejected(
            f"{', '.join(sorted(beside)[:5])} lies beside the zarr folder {root}: put all crops "
            "into one"
        )


def group_problems(reader: ZipReader, root: str, crops: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with the groups of the root and of crops."""
    entries = reader.archive.NameToInfo
    for crop in (None, *crops):
        folder = f"{root}{crop + '/' if crop else ''}"
        if f"{folder}.zarray" in entries:
            where = "a crop" if crop else "the root"
            yield rejected(
                f"{folder}.zarray makes an array of {where}, which must be a group of labels: "
                "delete it",
                crop,
            )
        entry = entries.get(f"{folder}.zgroup")
        if entry is None:
            yield rejected(
                f"{folder}.zgroup is missing, which the format asks for (the evaluator of 2026-06 "
                'adds it): add it with {"zarr_format": 2}',
                crop,
            )
            continue
        try:
            group = json.loads(reader.read(entry)) if _is_small(entry) else None
        except (ValueError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            yield rejected(
                f'{folder}.zgroup cannot be read ({error}): write it as {{"zarr_format": 2}}',
                crop,
            )
            continue
        if not isinstance(group, dict) or group.get("zarr_format") != 2:
            yield rejected(f'{folder}.zgroup does not say {{"zarr_format": 2}}: write it so', crop)


def place_of(name: PurePosixPath) -> tuple[str | None, str | None]:
    """Crop and label that an entry belongs to."""
    parts = name.parts[:-1]
    crop = next((i for i, part in enumerate(parts) if part.startswith("crop")), None)
    if crop is None:
        return None, None
    return parts[crop], parts[crop + 1] if crop + 1 < len(parts) else None


def _is_small(entry: zipfile.ZipInfo) -> bool:
    return entry.file_size <= MAX_METADATA_BYTES
