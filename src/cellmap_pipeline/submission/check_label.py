"""What is wrong with one label of a submission: what it says of itself, and its voxels."""

from __future__ import annotations

import itertools
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.scoring.alignment import (
    check_placeable,
    lies_on,
    safe_translation,
    submitted_grid,
)
from cellmap_pipeline.scoring.archive import Archive, Stored
from cellmap_pipeline.scoring.instances import instance_ratio_limit
from cellmap_pipeline.scoring.objects import label_components
from cellmap_pipeline.scoring.slabs import slabs
from cellmap_pipeline.scoring.submission import compared
from cellmap_pipeline.submission.check_voxels import NAMED, Found, chunk_counts, walk
from cellmap_pipeline.submission.check_zip import REPACK, Problem, rejected
from cellmap_pipeline.submission.chunk_codecs import ChunkError, check_codecs

# No codec makes larger chunks; a header that claims them would only fill the memory.
MAX_CHUNK_BYTES = 2**31
# Objects of fewer voxels than a cube of 2 are specks, hardly what somebody annotated.
SPECK_VOXELS = 8

LOOKS_LIKE_A_CHUNK = re.compile(r"\d+([./]\d+)*")


@dataclass(frozen=True)
class Checked:
    """Problems of a label, and whether any voxel of it is labelled (None: it cannot be told)."""

    problems: list[Problem]
    labelled: bool | None


def check_label(
    submission: Archive,
    crop: str,
    row: CropLabel,
    entries: Mapping[str, zipfile.ZipInfo],
) -> Checked:
    """All that is wrong with a label that is there.

    Parameters
    ----------
    crop
        Its name in the submission.
    row
        Of the manifest.
    entries
        Of the label's folder, by their path in it.
    """
    place = f"crop{row.crop}", row.label
    try:
        stored = submission.array(crop, row.label)
        refusal = _refusal(stored, row)
    except InputError as error:
        refusal = str(error)
    if refusal:
        return Checked([rejected(refusal, *place)], None)
    problems = [Problem("costs", *place, text) for text in _grid_messages(stored, row.grid)]
    assert submission.zip
    found = walk(submission.zip, stored.array, entries, row.label)
    if found.broken:
        more = len(found.broken) - NAMED
        named = "; ".join(found.broken[:NAMED]) + (f"; and {more} more" if more > 0 else "")
        message = f"a chunk cannot be decoded ({named}): {REPACK}"
        problems.append(rejected(message, *place))
    problems += [Problem(kind, *place, text) for kind, text in sorted(found.findings)]
    costs = [*_chunk_messages(stored.array, found)]
    if found.sizes is not None:
        costs += _object_messages(found.sizes)
    problems += [Problem("costs", *place, text) for text in costs]
    return Checked(problems, None if found.broken else found.labelled)


def _refusal(array: Stored, row: CropLabel) -> str | None:
    """Why the evaluator would stop at this array, if it would."""
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
    if math.prod(array.chunks) * array.dtype.itemsize > MAX_CHUNK_BYTES:
        return f"has chunks of {list(array.chunks)} voxels, above 2 GiB each: store smaller ones"
    try:
        check_codecs(array.array)
    except ChunkError as error:
        return f"{error}: store it with zstd, blosc or gzip, without filters"
    return None


def _grid_messages(array: Stored, grid: Grid) -> Iterator[str]:
    """Where an array does not lie on the grid that the manifest asks for."""
    wanted = {"voxel_size": list(grid.voxel_size), "translation": list(safe_translation(grid))}
    for name, value, same in zip(
        wanted, submitted_grid(array.attributes), lies_on(array.attributes, grid), strict=True
    ):
        if value is None:
            yield f"the attribute {name} is missing: set it to {wanted[name]}"
        elif not same:
            yield (
                f"{name} is {list(value)} but the manifest says {wanted[name]}: the evaluator "
                "resamples and floors such arrays into place; put it onto the manifest's grid"
            )
    if array.shape != grid.shape:
        yield (
            f"the shape is {list(array.shape)} but the manifest says {list(grid.shape)}: "
            "put it onto the manifest's grid"
        )


def _chunk_messages(array: zarr.Array, found: Found) -> Iterator[str]:
    """Chunks that are not where they should be, though what is there can be read."""
    total = math.prod(chunk_counts(array))
    unread = [name for name in found.others if LOOKS_LIKE_A_CHUNK.fullmatch(name)]
    if unread:
        yield (
            f"{len(unread)} files such as {min(unread)} are not chunks by what .zarray says, and "
            "are ignored: put its shape, chunks and dimension_separator right"
        )
    if not found.missing:
        return
    if array.fill_value is None:
        yield (
            f"{found.missing} of {total} chunks are missing and .zarray has no fill_value, so that "
            'their voxels are undefined: set "fill_value": 0, or add the chunks'
        )
    elif found.empty:
        # Who leaves out empty chunks leaves out all of them.
        yield (
            f"{found.missing} of {total} chunks are missing, though empty ones are stored; their "
            "voxels count as background: add them"
        )


def _object_messages(sizes: NDArray[np.int64]) -> Iterator[str]:
    """Whether an instance label holds far more objects than can be meant.

    The evaluator skips a crop whose ratio of predicted to true objects is above its cut-off. What
    the truth holds is not known; here it is taken to hold as many as there are objects that are
    not mere specks.
    """
    n, specks = len(sizes), int(np.count_nonzero(sizes < SPECK_VOXELS))
    solid = max(1, n - specks)
    if n > instance_ratio_limit(solid) * solid:
        needed = next(m for m in itertools.count(solid) if n <= instance_ratio_limit(m) * m)
        yield (
            f"holds far too many objects: {n} connected parts, {specks} of them of fewer than "
            f"{SPECK_VOXELS} voxels; the evaluator skips the crop unless the truth has {needed} or "
            "more objects: remove small ones"
        )


def check_against_truth(
    submission: Archive, truth: Archive, crop: str, row: CropLabel
) -> Iterator[Problem]:
    """Fewer or more objects than the scorer's cut-off takes for plausible.

    Parameters
    ----------
    crop
        Its name in the submission.
    row
        Of the manifest.

    Raises
    ------
    InputError
        The truth cannot be read, or is not on the manifest's grid.
    """
    if not is_instance(row.label) or row.label not in truth.labels.get(f"crop{row.crop}", ()):
        return
    place = f"crop{row.crop}", row.label
    pred, true = compared(submission, truth, crop, f"crop{row.crop}", row.label, row.grid)
    n_true = max(int(slab.max(initial=0)) for (slab,) in slabs(true))
    if not n_true:
        return
    components = label_components(pred, instance_ratio_limit(n_true) * n_true)
    if components is None:
        yield Problem(
            "costs", *place, f"holds more than {instance_ratio_limit(n_true):.1f} times the "
            f"{n_true} objects of the truth, so that the evaluator skips the crop: remove small "
            "objects",
        )  # fmt: skip
    elif not components.any():
        yield Problem(
            "costs", *place, f"holds no object, but the truth up to {n_true}: all are missed"
        )
