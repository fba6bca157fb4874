"""Reading a finished submission.zip back and holding it against the manifest.

What is refused and what is only scored worse follows the official evaluator
(cellmap-segmentation-challenge, utils.eval_utils, 2026-06-30).
"""

from __future__ import annotations

import itertools
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from cellmap_pipeline.alignment import MAX_SIZE_RATIO
from cellmap_pipeline.archive import DECODE_ERRORS, Archive
from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel

Severity = Literal["rejected", "costs"]

# The portal's limit on the unpacked size.
MAX_BYTES = 50 * 2**30
# No codec makes larger chunks; a header that claims them would only fill the memory.
MAX_CHUNK_BYTES = 2**31

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


def check(path: str | Path, manifest: Sequence[CropLabel]) -> list[Problem]:
    """All that is wrong with the submission at `path`; nothing where it is fine.

    Each chunk is decoded once; memory stays that of one chunk.

    Parameters
    ----------
    path : a zip, of this pipeline or any other.
    manifest : what it should hold.
    """
    if not zipfile.is_zipfile(path):
        return [Problem("rejected", None, None, f"{path} is not a zip file: {REPACK}")]
    with zipfile.ZipFile(path) as archive:
        problems = list(_entry_problems(archive.infolist()))
    if any(problem.severity == "rejected" for problem in problems):
        return problems
    try:
        submission = Archive.open(path)
    except InputError as error:
        return [*problems, Problem("rejected", None, None, str(error))]
    names = set(submission.store.zf.namelist())
    problems += _group_problems(submission, names)
    problems += _extra_problems(submission, manifest)
    for crop, rows in itertools.groupby(
        sorted(manifest, key=lambda row: (row.crop, row.label)), key=lambda row: f"crop{row.crop}"
    ):
        problems += _crop_problems(submission, names, crop, list(rows))
    return problems


def _entry_problems(entries: Sequence[zipfile.ZipInfo]) -> Iterator[Problem]:
    """What is wrong with the zip itself, before anything in it is read."""
    total = sum(entry.file_size for entry in entries)
    if total > MAX_BYTES:
        yield Problem(
            "rejected",
            None,
            None,
            f"{total / 2**30:.1f} GiB unpacked, above the limit of {MAX_BYTES / 2**30:.0f} GiB: "
            "store labels compressed, on the manifest's grid",
        )
    seen = set()
    for entry in entries:
        name = PurePosixPath(entry.filename)
        crop, label = _place(name)
        if entry.filename in seen:
            yield Problem("rejected", crop, label, f"{name} is in the zip twice: {REPACK}")
        seen.add(entry.filename)
        if stat.S_ISLNK(entry.external_attr >> 16):
            yield Problem(
                "rejected", crop, label, f"{name} is a link: put in the file that it points to"
            )
        if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
            yield Problem("rejected", None, None, f"{name} leaves the archive: {REPACK}")
        if entry.flag_bits & 1:
            yield Problem("rejected", crop, label, f"{name} is encrypted: zip without a password")
        if name.name == "zarr.json":
            yield Problem(
                "rejected", crop, label, f"{name} is zarr 3, the evaluator reads zarr 2: {REPACK}"
            )


def _place(name: PurePosixPath) -> tuple[str | None, str | None]:
    """Crop and label that an entry belongs to."""
    parts = name.parts[:-1]
    crop = next((i for i, part in enumerate(parts) if part.startswith("crop")), None)
    if crop is None:
        return None, None
    return parts[crop], parts[crop + 1] if crop + 1 < len(parts) else None


def _group_problems(submission: Archive, names: set[str]) -> Iterator[Problem]:
    for group in (None, *submission.labels):
        entry = f"{submission.root}{group + '/' if group else ''}.zgroup"
        if entry not in names:
            yield Problem(
                "rejected", group, None, f'{entry} is missing: add it with {{"zarr_format": 2}}'
            )


def _extra_problems(submission: Archive, manifest: Sequence[CropLabel]) -> Iterator[Problem]:
    wanted: dict[str, set[str]] = {}
    for row in manifest:
        wanted.setdefault(f"crop{row.crop}", set()).add(row.label)
    for crop, labels in submission.labels.items():
        if crop not in wanted:
            yield Problem(
                "costs", crop, None, "the manifest has no such crop, it is ignored: leave it out, "
                "or name it crop{id} as in the manifest",
            )  # fmt: skip
            continue
        for label in labels:
            if label not in wanted[crop]:
                yield Problem(
                    "costs", crop, label, "the manifest does not ask for this label, it is "
                    "ignored: leave it out, or name it as in the manifest",
                )  # fmt: skip


def _crop_problems(
    submission: Archive, names: set[str], crop: str, rows: Sequence[CropLabel]
) -> Iterator[Problem]:
    if crop not in submission.labels:
        labels = ", ".join(row.label for row in rows)
        yield Problem("costs", crop, None, f"the crop is missing ({labels}): add it, even empty")
        return
    for row in rows:
        if row.label in submission.labels[crop]:
            yield from _label_problems(submission, crop, row)
        elif f"{submission.root}{crop}/{row.label}/.zgroup" in names:
            yield Problem(
                "costs", crop, row.label, "a group, which the evaluator takes for missing: "
                "store the array itself under the label's name",
            )  # fmt: skip
        else:
            yield Problem(
                "costs", crop, row.label, "the label is missing: add it, even empty, which is "
                "never scored lower",
            )  # fmt: skip


def _label_problems(submission: Archive, crop: str, row: CropLabel) -> Iterator[Problem]:
    try:
        array = submission.array(crop, row.label)
        attributes = array.attrs.asdict()
    except InputError as error:
        yield Problem("rejected", crop, row.label, str(error))
        return
    except DECODE_ERRORS as error:
        yield Problem("rejected", crop, row.label, f".zattrs cannot be read ({error}): {REPACK}")
        return
    refusal = _refusal(array, row.grid)
    if refusal:
        yield Problem("rejected", crop, row.label, refusal)
        return
    for message in _grid_messages(array, attributes, row.grid):
        yield Problem("costs", crop, row.label, message)
    found: set[str] = set()
    try:
        for values in _chunks(array):
            found.update(_value_messages(values, row.label))
    except DECODE_ERRORS as error:
        yield Problem("rejected", crop, row.label, f"a chunk cannot be decoded ({error}): {REPACK}")
    for message in sorted(found):
        yield Problem("costs", crop, row.label, message)


def _refusal(array: zarr.Array, grid: Grid) -> str | None:
    """Why the evaluator would stop at this array, if it would."""
    if array.ndim != 3:
        return f"has the shape {list(array.shape)} but must have the axes z, y, x: {REPACK}"
    if array.dtype.kind not in "buif":
        return f"has the type {array.dtype} but must be a whole-number type: {REPACK}"
    if array.size > MAX_SIZE_RATIO * grid.size:
        return (
            f"has {array.size / grid.size:.0f} times the crop's voxels, the evaluator stops above "
            f"{MAX_SIZE_RATIO}: resample it to {list(grid.voxel_size)} nm"
        )
    if int(np.prod(array.chunks, dtype=np.float64)) * array.dtype.itemsize > MAX_CHUNK_BYTES:
        return f"has chunks of {list(array.chunks)} voxels, above 2 GiB each: store smaller ones"
    return None


def _grid_messages(array: zarr.Array, attributes: dict[str, Any], grid: Grid) -> Iterator[str]:
    for name in ("voxel_size", "translation"):
        wanted = np.asarray(getattr(grid, name))
        stored = attributes.get(name)
        if stored is None:
            yield f"the attribute {name} is missing: set it to {wanted.tolist()}"
        elif not _close(stored, wanted):
            yield (
                f"{name} is {stored} but the manifest says {wanted.tolist()}: the evaluator "
                "resamples and floors such arrays into place; put it onto the manifest's grid"
            )
    if array.shape != grid.shape:
        yield (
            f"the shape is {list(array.shape)} but the manifest says {list(grid.shape)}: "
            "put it onto the manifest's grid"
        )


def _close(stored: Any, wanted: NDArray[Any]) -> bool:
    try:
        values = np.asarray(stored, np.float64)
    except (TypeError, ValueError):
        return False
    return values.shape == wanted.shape and np.allclose(values, wanted, rtol=1e-6, atol=1e-3)


def _chunks(array: zarr.Array) -> Iterator[NDArray[Any]]:
    ranges = [range(0, n, c) for n, c in zip(array.shape, array.chunks, strict=True)]
    for start in itertools.product(*ranges):
        yield array[tuple(slice(a, a + c) for a, c in zip(start, array.chunks, strict=True))]


def _value_messages(values: NDArray[Any], label: str) -> Iterator[str]:
    """What is wrong with voxels; the same words for every chunk of a label."""
    kind = values.dtype.kind
    if kind == "f" and np.isnan(values).any():
        yield "holds NaN: write 0 there"
    if not is_instance(label):
        if values.max() > 1 if kind in "bu" else not np.isin(values, (0, 1)).all():
            yield "holds values other than 0 and 1, and all above 0 counts as inside: threshold it"
        if kind not in "bu":
            yield f"has the type {values.dtype}: write uint8"
        return
    if kind not in "bu":
        yield f"has the type {values.dtype}: write ids in an unsigned type that holds them"
    if kind == "f" and not np.array_equal(values, np.trunc(values), equal_nan=True):
        yield "holds fractions, and every value becomes an object of its own: write whole ids"
    if kind in "if" and values.min() < 0:
        yield "holds ids below 0: write ids from 1 up, 0 for background"
