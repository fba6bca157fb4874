"""Checks of one label of a submission: its metadata and its voxels."""

from __future__ import annotations

import itertools
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.scoring.alignment import (
    check_placeable,
    matches_grid,
    safe_translation,
    submitted_grid,
)
from cellmap_pipeline.scoring.archive import Archive, StoredArray
from cellmap_pipeline.scoring.matching import instance_ratio_limit
from cellmap_pipeline.scoring.objects import label_components
from cellmap_pipeline.scoring.rules.base import Rules
from cellmap_pipeline.scoring.slabs import slabs
from cellmap_pipeline.scoring.submission import aligned_pair
from cellmap_pipeline.submission.check_voxels import ChunkScan, scan_chunks
from cellmap_pipeline.submission.check_zip import (
    METADATA_NAMES,
    REPACK,
    Problem,
    rejection,
    unpacking_problems,
)

# Objects smaller than a cube of 2³ voxels are specks, which are hardly ever annotated.
MIN_OBJECT_VOXELS = 8
MAX_NAMED_CHUNKS = 3

CHUNK_NAME = re.compile(r"\d+([./]\d+)*")


@dataclass(frozen=True)
class LabelCheck:
    """Result of checking a label.

    Attributes
    ----------
    problems
        Problems found.
    labeled
        Whether any voxel is labeled; None if it could not be determined.
    """

    problems: list[Problem]
    labeled: bool | None


def check_label(
    submission: Archive,
    crop: str,
    row: CropLabel,
    entries: Mapping[str, zipfile.ZipInfo],
    rules: Rules,
) -> LabelCheck:
    """Check a label of a submission.

    Parameters
    ----------
    submission
        Zip with the label.
    crop
        Name of its crop in the submission.
    row
        Row of the manifest.
    entries
        Entries of the label's folder, by their path in it.
    rules
        The evaluator's rules.
    """
    place = f"crop{row.crop}", row.label
    try:
        stored = submission.array(crop, row.label)
        refusal = _refusal(stored, row)
    except InputError as error:
        refusal = str(error)
    if refusal:
        return LabelCheck([rejection(refusal, *place)], None)
    problems = [Problem("costs", *place, text) for text in _grid_messages(stored, row.grid)]
    assert submission.zip is not None
    scan = scan_chunks(submission.zip, stored, entries, row.label)
    if scan.broken:
        unnamed = len(scan.broken) - MAX_NAMED_CHUNKS
        chunks = "; ".join(scan.broken[:MAX_NAMED_CHUNKS])
        chunks += f"; and {unnamed} more" if unnamed > 0 else ""
        problems.append(rejection(f"a chunk cannot be decoded ({chunks}): {REPACK}", *place))
    others = (entry for name, entry in entries.items() if name in scan.others - METADATA_NAMES)
    problems += unpacking_problems(submission.zip, others)
    problems += [Problem(severity, *place, text) for severity, text in sorted(scan.findings)]
    costs = [*_chunk_messages(stored.metadata, scan)]
    if scan.sizes is not None:
        costs += _object_messages(scan.sizes, rules)
    problems += [Problem("costs", *place, text) for text in costs]
    return LabelCheck(problems, None if scan.broken else scan.labeled)


def _refusal(array: StoredArray, row: CropLabel) -> str | None:
    """Reason for which the evaluator would stop at this array, or None."""
    if array.dtype.kind not in "buif":
        return f"has the type {array.dtype} but must be a whole-number type: {REPACK}"
    if is_instance(row.label) and not array.dtype.isnative:
        return (
            f"has the type {array.dtype.str} of big-endian bytes, which the evaluator cannot split "
            "into objects: write it little-endian"
        )
    if len(array.shape) != 3:
        return f"has the shape {list(array.shape)} but must have the axes z, y, x: {REPACK}"
    try:
        check_placeable(array.shape, array.attributes, row.grid)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        return (
            f"the evaluator cannot place it ({error}); set voxel_size to "
            f"{list(row.grid.voxel_size)} and translation to {list(row.grid.translation)}"
        )
    array.check_chunks(row.grid)
    return None


def _grid_messages(array: StoredArray, grid: Grid) -> Iterator[str]:
    """Compare the grid of an array with the manifest's."""
    expected = {"voxel_size": list(grid.voxel_size), "translation": list(safe_translation(grid))}
    for name, value, matches in zip(
        expected,
        submitted_grid(array.attributes),
        matches_grid(array.attributes, grid),
        strict=True,
    ):
        if value is None:
            yield f"the attribute {name} is missing: set it to {expected[name]}"
        elif not matches:
            yield (
                f"{name} is {list(value)} but the manifest says {expected[name]}: the evaluator "
                "resamples and floors such arrays into place; resample it to the manifest's grid"
            )
    if array.shape != grid.shape:
        yield (
            f"the shape is {list(array.shape)} but the manifest says {list(grid.shape)}: "
            "resample it to the manifest's grid"
        )


def _chunk_messages(array: ArrayMetadata, scan: ChunkScan) -> Iterator[str]:
    """Report chunks that are missing, or that the array's metadata do not account for."""
    total = math.prod(array.chunk_counts)
    unread = [name for name in scan.others if CHUNK_NAME.fullmatch(name)]
    if unread:
        yield (
            f"{len(unread)} files such as {min(unread)} are not chunks according to .zarray, and "
            "are ignored: correct its shape, chunks and dimension_separator"
        )
    if not scan.missing:
        return
    if array.fill_value is None:
        yield (
            f"{scan.missing} of {total} chunks are missing and .zarray has no fill_value, so that "
            'their voxels are undefined: set "fill_value": 0, or add the chunks'
        )
    elif scan.empty:
        # Writers that omit empty chunks omit all of them, so these were probably lost.
        yield (
            f"{scan.missing} of {total} chunks are missing, though empty ones are stored; their "
            "voxels count as background: add them"
        )


def _object_messages(sizes: NDArray[np.int64], rules: Rules) -> Iterator[str]:
    """Report an instance label with implausibly many objects.

    The evaluator does not match the objects of a crop whose ratio of predicted to true objects is
    above its cut-off. The number of true objects is not known; it is assumed to be that of the
    predicted objects that are not specks.
    """
    n, specks = len(sizes), int(np.count_nonzero(sizes < MIN_OBJECT_VOXELS))
    solid = max(1, n - specks)
    if n > instance_ratio_limit(solid) * solid:
        needed = next(m for m in itertools.count(solid) if n <= instance_ratio_limit(m) * m)
        yield (
            f"holds far too many objects: {n} connected components, {specks} of them of fewer than "
            f"{MIN_OBJECT_VOXELS} voxels; the evaluator {_effect_of_too_many(rules)} unless the "
            f"ground truth has {needed} or more objects: remove small ones"
        )


def _effect_of_too_many(rules: Rules) -> str:
    return "counts all of them as wrong" if rules.counts_skipped_crops else "skips the crop"


def check_against_truth(
    submission: Archive, truth: Archive, crop: str, row: CropLabel, rules: Rules
) -> Iterator[Problem]:
    """Compare the number of objects with the ground truth: none, or too many to be scored.

    Parameters
    ----------
    crop
        Name of the crop in the submission.
    row
        Row of the manifest.
    rules
        The evaluator's rules.

    Raises
    ------
    InputError
        The ground truth cannot be read, or is not on the manifest's grid.
    """
    if not is_instance(row.label) or row.label not in truth.labels.get(f"crop{row.crop}", ()):
        return
    place = f"crop{row.crop}", row.label
    pred, true = aligned_pair(submission, truth, crop, f"crop{row.crop}", row.label, row.grid)
    n_true = max(int(slab.max(initial=0)) for (slab,) in slabs(true))
    if not n_true:
        return
    components = label_components(pred, instance_ratio_limit(n_true) * n_true)
    if components is None:
        yield Problem(
            "costs", *place, f"holds more than {instance_ratio_limit(n_true):.1f} times the "
            f"{n_true} objects of the ground truth, so that the evaluator "
            f"{_effect_of_too_many(rules)}: remove small objects",
        )  # fmt: skip
    elif not components.any():
        yield Problem(
            "costs", *place, "holds no object, but the ground truth has up to "
            f"{n_true}: all are missed",
        )  # fmt: skip
