"""Reading a finished submission.zip back and holding it against the manifest.

What is refused and what is only scored worse follows the official evaluator and the format that it
documents (cellmap-segmentation-challenge, utils.eval_utils and docs/submission_data_format,
2026-06-30).
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.run.pools import run_bounded
from cellmap_pipeline.scoring.archive import Archive
from cellmap_pipeline.scoring.summary import MASK_SUFFIX
from cellmap_pipeline.scoring.zip_reader import UNREADABLE, ZipReader
from cellmap_pipeline.submission.check_label import Checked, check_against_truth, check_label
from cellmap_pipeline.submission.check_zip import (
    MAX_METADATA_BYTES,
    REPACK,
    Problem,
    beside_problems,
    entry_problems,
    group_problems,
    metadata_entries,
    rejected,
)

# Bytes of a voxel of a layer while its objects are counted, and voxels of one as it is slabbed.
LAYER_BYTES = 24
LAYER_VOXELS = 1 << 27
# Of a label that is held against the truth.
INSTANCE_BYTES = 6

Entries = dict[str, zipfile.ZipInfo]


def check(
    path: str | Path,
    manifest: Sequence[CropLabel],
    truth: str | Path | None = None,
    workers: int = 1,
) -> list[Problem]:
    """All that is wrong with the submission at `path`, what gets it rejected first.

    Each chunk is decoded once; memory stays that of one layer of chunks for each worker.

    Parameters
    ----------
    path
        A zip, of this pipeline or any other.
    manifest
        What it should hold.
    truth
        Folder (zarr 2) with `crop{id}/{label}`, where it is known: then the number of objects is
        held against it.
    workers
        Processes that check labels side by side.
    """
    if not zipfile.is_zipfile(path):
        return [rejected(f"{path} is not a zip file, or is cut off: {REPACK}")]
    try:
        reader = ZipReader(path)
    except UNREADABLE as error:
        return [rejected(f"{path}: the zip's directory cannot be read ({error}): {REPACK}")]
    problems = list(entry_problems(reader.entries))
    if any(entry.file_size > MAX_METADATA_BYTES for entry in metadata_entries(reader.entries)):
        return problems
    try:
        submission = Archive.open(path, reader)
    except InputError as error:
        return [*problems, rejected(str(error))]
    problems += beside_problems(list(reader), submission.root)
    crops = _crops(submission, manifest)
    there = [crop for crop in submission.labels if crop in crops.values()]
    problems += group_problems(reader, submission.root, there)
    if not there:
        held = ", ".join(submission.labels) or "none"
        deeper = any(f"/{crop}/" in name for name in reader for crop in set(crops.values()))
        remedy = "zip what is in that folder" if deeper else "name them crop{id} as in the manifest"
        problems.append(
            rejected(
                f"holds none of the manifest's crops (there are: {held}), at which the evaluator "
                f"stops: {remedy}"
            )
        )
    problems += _extra_problems(submission, manifest, crops)
    present = [row for row in manifest if row.label in submission.labels.get(crops[row.crop], ())]
    needs = [_needed_bytes(row, truth is not None) for row in present]
    _open(path, manifest, truth, submission)
    checked = dict(
        run_bounded(
            _check_row, present, needs, workers, None, _open, (path, manifest, truth), "Checking"
        )
    )
    _opened.clear()
    problems += _missing_problems(submission, reader, manifest, crops)
    for row in sorted(present, key=lambda row: (row.crop, row.label)):
        problems += checked[row].problems
    problems += _implausible(checked)
    return sorted(problems, key=lambda problem: problem.severity != "rejected")


def _needed_bytes(row: CropLabel, with_truth: bool) -> int:
    """A layer of an instance label, twice, and its components; all of it against the truth."""
    plane = row.grid.shape[1] * row.grid.shape[2]
    layer = min(row.grid.size, LAYER_VOXELS, 128 * plane)
    return LAYER_BYTES * layer + (INSTANCE_BYTES * row.grid.size if with_truth else 0)


def _crops(submission: Archive, manifest: Sequence[CropLabel]) -> dict[int, str]:
    """Name of each of the manifest's crops in the submission.

    Where none is named crop{id}, the evaluator takes names that are the number alone.
    """
    numbers = {row.crop for row in manifest}
    bare = not any(f"crop{n}" in submission.labels for n in numbers)
    return {n: str(n) if bare and str(n) in submission.labels else f"crop{n}" for n in numbers}


def _extra_problems(
    submission: Archive, manifest: Sequence[CropLabel], crops: Mapping[int, str]
) -> Iterator[Problem]:
    wanted: dict[str, set[str]] = {}
    for row in manifest:
        wanted.setdefault(crops[row.crop], set()).add(row.label)
    for crop, labels in submission.labels.items():
        if crop not in wanted:
            if labels or crop.startswith("crop"):
                yield Problem(
                    "costs", crop, None, "the manifest has no such crop, it is ignored: leave it "
                    "out, or name it crop{id} as in the manifest",
                )  # fmt: skip
            continue
        for label in labels:
            if label in wanted[crop]:
                continue
            if label.removesuffix(MASK_SUFFIX) in wanted[crop]:
                yield rejected(
                    "has the name of a mask of the truth, at which the evaluator stops where the "
                    "truth has one: leave it out",
                    crop,
                    label,
                )
                continue
            yield Problem(
                "costs", crop, label, "the manifest does not ask for this label, it is "
                "ignored: leave it out, or name it as in the manifest",
            )  # fmt: skip


def _missing_problems(
    submission: Archive,
    names: Collection[str],
    manifest: Sequence[CropLabel],
    crops: Mapping[int, str],
) -> Iterator[Problem]:
    missing = [
        row for row in manifest if row.label not in submission.labels.get(crops[row.crop], ())
    ]
    if not missing:
        return
    from cellmap_pipeline.scoring.upper_bound import ceiling

    def reach(without: Collection[CropLabel]) -> str:
        left = set(manifest).difference(without)
        return f"{ceiling(manifest, left)['overall']:.4f} at most"

    for number, of_crop in itertools.groupby(
        sorted(missing, key=lambda row: (row.crop, row.label)), key=lambda row: row.crop
    ):
        crop, rows = crops[number], list(of_crop)
        if crop not in submission.labels:
            labels = ", ".join(row.label for row in rows)
            yield Problem(
                "costs", crop, None, f"the crop is missing ({labels}), without which the overall "
                f"score can reach {reach(rows)}: add it, even empty",
            )  # fmt: skip
            continue
        for row in rows:
            if f"{submission.root}{crop}/{row.label}/zarr.json" in names:
                continue
            cost = f"without it the overall score can reach {reach([row])}"
            if f"{submission.root}{crop}/{row.label}/.zgroup" in names:
                message = (
                    f"a group, which the evaluator takes for missing ({cost}): store the array "
                    "itself under the label's name"
                )
            else:
                message = (
                    f"the label is missing, and counts {_counted(row)} ({cost}): add it, even "
                    "empty, which is never scored lower"
                )
            yield Problem("costs", crop, row.label, message)
    if len(missing) > 1:
        yield Problem(
            "costs", None, None, f"{len(missing)} of {len(manifest)} labels are missing: perfect "
            f"ones in all others could reach an overall score of {reach(missing)}",
        )  # fmt: skip


def _counted(row: CropLabel) -> str:
    if is_instance(row.label):
        return "all objects of the truth at the worst distance"
    return f"all {row.grid.size:,} voxels of the crop as missed"


def _implausible(checked: Mapping[CropLabel, Checked]) -> Iterator[Problem]:
    """Instance labels without an object in crops where parts of such objects are labelled."""
    labelled: dict[int, set[str]] = {}
    for row, result in checked.items():
        if result.labelled:
            labelled.setdefault(row.crop, set()).add(row.label)
    for row, result in checked.items():
        if not is_instance(row.label) or result.labelled is not False:
            continue
        parts = sorted(
            label for label in labelled.get(row.crop, ()) if label.startswith(f"{row.label}_")
        )
        if parts:
            yield Problem(
                "costs", f"crop{row.crop}", row.label, f"holds no object, though {parts[0]} is "
                "labelled in the same crop: fewer than plausible; look at its threshold and sizes",
            )  # fmt: skip


@dataclass
class _Opened:
    """What the processes that check labels need; where they are forked, they share it."""

    arguments: tuple[Any, ...]
    submission: Archive
    entries: dict[tuple[str, str], Entries]
    crops: dict[int, str]
    truth: Archive | None


_opened: list[_Opened] = []


def _open(
    path: str | Path,
    manifest: Sequence[CropLabel],
    truth: str | Path | None,
    submission: Archive | None = None,
) -> None:
    arguments = (path, manifest, truth)
    if _opened and _opened[0].arguments == arguments and submission is None:
        return
    submission = submission or Archive.open(path)
    entries: dict[tuple[str, str], Entries] = {}
    assert submission.zip
    for entry in submission.zip.entries:
        parts = entry.filename.removeprefix(submission.root).split("/", 2)
        if len(parts) == 3 and entry.filename.startswith(submission.root):
            entries.setdefault((parts[0], parts[1]), {})[parts[2]] = entry
    crops = _crops(submission, manifest)
    opened_truth = Archive.open(truth) if truth else None
    _opened[:] = [_Opened(arguments, submission, entries, crops, opened_truth)]


def _check_row(row: CropLabel) -> Checked:
    opened = _opened[0]
    crop = opened.crops[row.crop]
    result = check_label(opened.submission, crop, row, opened.entries[crop, row.label])
    if opened.truth and not any(p.severity == "rejected" for p in result.problems):
        more = check_against_truth(opened.submission, opened.truth, crop, row)
        return Checked([*result.problems, *more], result.labelled)
    return result


def exit_code(problems: Sequence[Problem]) -> int:
    """1 where the submission would be rejected, 2 where it would lose score, 0 where it is fine."""
    if any(problem.severity == "rejected" for problem in problems):
        return 1
    return 2 if problems else 0
