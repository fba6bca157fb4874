"""Checks of a submission's zip itself, before any of its arrays is read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.scoring.archive import MAX_METADATA_BYTES
from cellmap_pipeline.scoring.zip_entries import REPACK, entry_problems, has_bounded_path
from cellmap_pipeline.scoring.zip_reader import ZipReader

Severity = Literal["rejected", "costs"]

METADATA_NAMES = {".zgroup", ".zarray", ".zattrs"}


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


def zip_problems(
    entries: Sequence[zipfile.ZipInfo], manifest: Sequence[CropLabel]
) -> Iterator[Problem]:
    """Check the entries of a zip as listed in its directory."""
    for name, message in entry_problems(entries, manifest):
        yield rejection(message, *crop_and_label(name))
    for entry in filter(has_bounded_path, entries):
        name = entry.filename
        if name.rpartition("/")[2] == "zarr.json":
            text = (
                f"{name} is zarr 3, the evaluator reads zarr 2: write it again with zarr_format=2"
            )
            yield rejection(text, *crop_and_label(name))
    for entry in metadata_entries(entries):
        if entry.file_size > MAX_METADATA_BYTES:
            text = (
                f"{entry.filename} has {entry.file_size} bytes, far more than metadata take: "
                f"{REPACK}"
            )
            yield rejection(text, *crop_and_label(entry.filename))


def unpacking_problems(reader: ZipReader, entries: Iterable[zipfile.ZipInfo]) -> Iterator[Problem]:
    """Unpack entries that no other check reads, without keeping them."""
    for entry in entries:
        try:
            reader.verify(entry)
        except zipfile.BadZipFile as error:
            text = f"{entry.filename} cannot be unpacked ({error}): {REPACK}"
            yield rejection(text, *crop_and_label(entry.filename))


def metadata_entries(entries: Sequence[zipfile.ZipInfo]) -> Iterator[zipfile.ZipInfo]:
    """Select the entries with metadata of groups and arrays."""
    return (entry for entry in entries if entry.filename.rpartition("/")[2] in METADATA_NAMES)


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
        except (ValueError, RecursionError, zipfile.BadZipFile) as error:
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
