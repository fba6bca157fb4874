"""Checks of a finished submission.zip against the manifest.

Problems are classified as rejected or only scored lower according to the official evaluator and its
documented format (cellmap-segmentation-challenge, utils.eval_utils and docs/submission_data_format,
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
from cellmap_pipeline.scoring.archive import MAX_METADATA_BYTES, Archive
from cellmap_pipeline.scoring.rules.base import Rules
from cellmap_pipeline.scoring.rules.registry import NEWEST_RULES, rules_named
from cellmap_pipeline.scoring.summary import MASK_SUFFIX
from cellmap_pipeline.scoring.upper_bound import score_upper_bound
from cellmap_pipeline.scoring.zip_entries import (
    REPACK,
    has_bounded_path,
    size_problem,
)
from cellmap_pipeline.scoring.zip_reader import DIRECTORY_ERRORS, ZipReader, is_zip
from cellmap_pipeline.submission.check_label import LabelCheck, check_against_truth, check_label
from cellmap_pipeline.submission.check_zip import (
    Problem,
    group_problems,
    metadata_entries,
    outside_root_problems,
    rejection,
    unpacking_problems,
    zip_problems,
)

# Memory per voxel while the objects of a layer of chunks are counted, for the layers of common
# chunk sizes.
BYTES_PER_LAYER_VOXEL = 24
MAX_LAYER_VOXELS = 1 << 27
MAX_LAYER_THICKNESS = 128
# Memory per voxel of a label that is compared with the ground truth.
BYTES_PER_TRUTH_VOXEL = 6

# Entries of a label's folder, by their path in it.
Entries = dict[str, zipfile.ZipInfo]


def check(
    path: str | Path,
    manifest: Sequence[CropLabel],
    truth: str | Path | None = None,
    workers: int = 1,
    rules: str = NEWEST_RULES,
    memory_gb: float | None = None,
) -> list[Problem]:
    """List all problems of the submission at `path`, those that get it rejected first.

    Each chunk is decoded once; each worker keeps one layer of chunks in memory.

    Parameters
    ----------
    path
        Path of a zip, from this pipeline or any other.
    manifest
        Labels that it should hold.
    truth
        Folder (zarr 2) with the ground truth `crop{id}/{label}`, if it is known; then the number of
        objects is compared with it.
    workers
        Number of processes that check labels in parallel.
    rules
        Name of the evaluator's rules, on which depends what a problem costs.
    memory_gb
        Memory for all processes together, in GiB; by default half of the machine's.
    """
    chosen = rules_named(rules)
    if not is_zip(path):
        return [rejection(f"{path} is not a zip file, or is cut off: {REPACK}")]
    try:
        reader = ZipReader(path)
    except DIRECTORY_ERRORS as error:
        return [rejection(f"{path}: the zip's directory cannot be read ({error}): {REPACK}")]
    problems = list(zip_problems(reader.entries, manifest))
    if not _is_readable(reader):
        return problems
    try:
        submission = Archive.open(path, reader)
    except InputError as error:
        return [*problems, rejection(str(error))]
    problems += outside_root_problems(list(reader), submission.root)
    crops = _crop_names(submission, manifest)
    found_crops = [crop for crop in submission.labels if crop in crops.values()]
    problems += group_problems(reader, submission.root, found_crops)
    if not found_crops:
        names = ", ".join(submission.labels) or "none"
        nested = any(f"/{crop}/" in name for name in reader for crop in set(crops.values()))
        remedy = (
            "zip the contents of that folder" if nested else "name them crop{id} as in the manifest"
        )
        problems.append(
            rejection(
                f"holds none of the manifest's crops (it has: {names}), at which the evaluator "
                f"stops: {remedy}"
            )
        )
    problems += _extra_problems(submission, manifest, crops)
    present = [row for row in manifest if row.label in submission.labels.get(crops[row.crop], ())]
    _prepare_worker(path, manifest, truth, chosen, submission)
    results = run_bounded(
        _check_row,
        present,
        task_bytes=[_needed_bytes(row, truth is not None) for row in present],
        memory_bytes=int(memory_gb * 2**30) if memory_gb else None,
        workers=workers,
        initializer=_prepare_worker,
        initargs=(path, manifest, truth, chosen),
        description="Checking",
    )
    checked = dict(results)
    _worker_inputs.clear()
    if not size_problem(reader.entries, manifest):
        labels = {(crops[row.crop], row.label) for row in present}
        problems += unpacking_problems(reader, _other_entries(submission, found_crops, labels))
    problems += _missing_problems(submission, reader, manifest, crops, chosen)
    for row in sorted(present, key=lambda row: (row.crop, row.label)):
        problems += checked[row].problems
    problems += _empty_label_problems(checked)
    return sorted(problems, key=lambda problem: problem.severity != "rejected")


def _is_readable(reader: ZipReader) -> bool:
    """Whether names and metadata are small enough to be read."""
    return all(map(has_bounded_path, reader.entries)) and all(
        entry.file_size <= MAX_METADATA_BYTES for entry in metadata_entries(reader.entries)
    )


def _other_entries(
    submission: Archive, crops: Collection[str], present: Collection[tuple[str, str]]
) -> Iterator[zipfile.ZipInfo]:
    """Entries that are neither the groups' metadata nor in the folder of a label to check."""
    assert submission.zip is not None
    groups = {f"{submission.root}.zgroup"} | {f"{submission.root}{c}/.zgroup" for c in crops}
    for entry in submission.zip.entries:
        name = entry.filename
        crop, _, rest = name.removeprefix(submission.root).partition("/")
        in_label = name.startswith(submission.root) and (crop, rest.partition("/")[0]) in present
        if name not in groups and not in_label:
            yield entry


def _needed_bytes(row: CropLabel, with_truth: bool) -> int:
    """Memory for a layer of an instance label and its components, and for the ground truth."""
    plane = row.grid.shape[1] * row.grid.shape[2]
    layer = min(row.grid.size, MAX_LAYER_VOXELS, MAX_LAYER_THICKNESS * plane)
    truth_bytes = BYTES_PER_TRUTH_VOXEL * row.grid.size if with_truth else 0
    return BYTES_PER_LAYER_VOXEL * layer + truth_bytes


def _crop_names(submission: Archive, manifest: Sequence[CropLabel]) -> dict[int, str]:
    """Names of the manifest's crops in the submission.

    If none is named crop{id}, the evaluator accepts names that are the number alone.
    """
    numbers = {row.crop for row in manifest}
    by_number = not any(f"crop{n}" in submission.labels for n in numbers)
    return {n: str(n) if by_number and str(n) in submission.labels else f"crop{n}" for n in numbers}


def _extra_problems(
    submission: Archive, manifest: Sequence[CropLabel], crops: Mapping[int, str]
) -> Iterator[Problem]:
    expected: dict[str, set[str]] = {}
    for row in manifest:
        expected.setdefault(crops[row.crop], set()).add(row.label)
    for crop, labels in submission.labels.items():
        if crop not in expected:
            if labels or crop.startswith("crop"):
                yield Problem(
                    "costs", crop, None, "the manifest has no such crop, it is ignored: leave it "
                    "out, or name it crop{id} as in the manifest",
                )  # fmt: skip
            continue
        for label in labels:
            if label in expected[crop]:
                continue
            if label.removesuffix(MASK_SUFFIX) in expected[crop]:
                yield rejection(
                    "has the name of a ground-truth mask, at which the evaluator stops if the "
                    "ground truth has such a mask: leave it out",
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
    rules: Rules,
) -> Iterator[Problem]:
    missing = [
        row for row in manifest if row.label not in submission.labels.get(crops[row.crop], ())
    ]
    if not missing:
        return

    def bound_without(rows: Collection[CropLabel]) -> str:
        remaining = set(manifest).difference(rows)
        return f"{score_upper_bound(manifest, remaining, rules)['overall']:.4f} at most"

    for number, crop_rows in itertools.groupby(
        sorted(missing, key=lambda row: (row.crop, row.label)), key=lambda row: row.crop
    ):
        crop, rows = crops[number], list(crop_rows)
        if crop not in submission.labels:
            labels = ", ".join(row.label for row in rows)
            yield Problem(
                "costs", crop, None, f"the crop is missing ({labels}), without which the overall "
                f"score can reach {bound_without(rows)}: add it, even empty",
            )  # fmt: skip
            continue
        for row in rows:
            if f"{submission.root}{crop}/{row.label}/zarr.json" in names:
                continue
            cost = f"without it the overall score can reach {bound_without([row])}"
            if f"{submission.root}{crop}/{row.label}/.zgroup" in names:
                message = (
                    f"is a group, which the evaluator treats as missing ({cost}): store the array "
                    "itself under the label's name"
                )
            else:
                counts = _missing_cost(row, rules)
                message = (
                    f"the label is missing, and counts {counts} ({cost}): add it, even empty, "
                    "which is never scored lower"
                )
            yield Problem("costs", crop, row.label, message)
    if len(missing) > 1:
        yield Problem(
            "costs", None, None, f"{len(missing)} of {len(manifest)} labels are missing: perfect "
            f"predictions of all others could reach an overall score of {bound_without(missing)}",
        )  # fmt: skip


def _missing_cost(row: CropLabel, rules: Rules) -> str:
    if is_instance(row.label):
        return "all objects of the ground truth as missed, with a score of 0"
    if rules.voxel_sum:
        return "as a missed object"
    return f"all {row.grid.size:,} voxels of the crop as missed"


def _empty_label_problems(checked: Mapping[CropLabel, LabelCheck]) -> Iterator[Problem]:
    """Find instance labels without objects in crops where parts of such objects are labeled."""
    labeled: dict[int, set[str]] = {}
    for row, result in checked.items():
        if result.labeled:
            labeled.setdefault(row.crop, set()).add(row.label)
    for row, result in checked.items():
        if not is_instance(row.label) or result.labeled is not False:
            continue
        parts = sorted(
            label for label in labeled.get(row.crop, ()) if label.startswith(f"{row.label}_")
        )
        if parts:
            yield Problem(
                "costs", f"crop{row.crop}", row.label, f"holds no object, though {parts[0]} is "
                "labeled in the same crop, which is implausible: check its threshold and minimum "
                "size",
            )  # fmt: skip


@dataclass
class _WorkerInputs:
    """Inputs of the processes that check labels; forked processes inherit them."""

    arguments: tuple[Any, ...]
    submission: Archive
    entries: dict[tuple[str, str], Entries]
    crops: dict[int, str]
    truth: Archive | None
    rules: Rules


# Holds at most one item.
_worker_inputs: list[_WorkerInputs] = []


def _prepare_worker(
    path: str | Path,
    manifest: Sequence[CropLabel],
    truth: str | Path | None,
    rules: Rules,
    submission: Archive | None = None,
) -> None:
    arguments = (path, manifest, truth, rules.name)
    if _worker_inputs and _worker_inputs[0].arguments == arguments and submission is None:
        return
    # Its problems, for which it would not be opened, are reported.
    submission = submission or Archive.open(path, ZipReader(path))
    entries: dict[tuple[str, str], Entries] = {}
    assert submission.zip is not None
    for entry in submission.zip.entries:
        parts = entry.filename.removeprefix(submission.root).split("/", 2)
        if len(parts) == 3 and entry.filename.startswith(submission.root):
            entries.setdefault((parts[0], parts[1]), {})[parts[2]] = entry
    crops = _crop_names(submission, manifest)
    truth_archive = Archive.open(truth) if truth else None
    _worker_inputs[:] = [_WorkerInputs(arguments, submission, entries, crops, truth_archive, rules)]


def _check_row(row: CropLabel) -> LabelCheck:
    (inputs,) = _worker_inputs
    crop = inputs.crops[row.crop]
    result = check_label(
        inputs.submission, crop, row, inputs.entries[crop, row.label], inputs.rules
    )
    if inputs.truth and not any(p.severity == "rejected" for p in result.problems):
        problems = check_against_truth(inputs.submission, inputs.truth, crop, row, inputs.rules)
        return LabelCheck([*result.problems, *problems], result.labeled)
    return result


def exit_code(problems: Sequence[Problem]) -> int:
    """Exit code: 1 if the submission would be rejected, 2 if it would lose score, else 0."""
    if any(problem.severity == "rejected" for problem in problems):
        return 1
    return 2 if problems else 0
