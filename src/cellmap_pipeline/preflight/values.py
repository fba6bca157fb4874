"""Checks of the values of decoded raw, labels and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from cellmap_pipeline.geometry import Grid, shape_of
from cellmap_pipeline.io.labels import annotated_voxels
from cellmap_pipeline.preflight.chunks import ChunkRequest

# Raw of integers that uses a smaller fraction of its type's range is nearly black.
MIN_RANGE_FRACTION = 1 / 16
# Raw whose 1st and 99th percentile are closer, as a fraction of its type's range, has little
# contrast. In the FIB-SEM and ssTEM data that the tests use, they are 0.45 to 0.82 apart.
MIN_CONTRAST = 1 / 8
# Largest values of masks, of percentages, and of 8-bit probabilities in a larger type.
TELLING_MAXIMA = (1, 100, 255)
# Difference between the labeled voxels of a label and of its annotation, as a fraction of either.
MAX_COUNT_DIFFERENCE = 0.02
# Rounding error of floats from 0 to 1.
FLOAT_TOLERANCE = 1e-3


def raw_warnings(
    request: ChunkRequest, crops: Sequence[tuple[str, Grid]], by_range: bool = True
) -> Iterator[str]:
    """Warn of raw that is nearly black or of little contrast, and of crops where it is constant.

    Parameters
    ----------
    request
        Decoded chunks of a level of raw.
    crops
        Name and extent of the crops in it.
    by_range
        Whether a training reads it with `normalize: range`; contrast matters to no other.
    """
    level, statistics = request.level, request.statistics
    if by_range:
        yield from _contrast_warnings(request)
    for crop, extent in crops:
        start, stop = level.grid.index_box(extent)
        chunks = level.metadata.chunks
        axes = [
            range(max(0, a) // c, -(-b // c)) for a, b, c in zip(start, stop, chunks, strict=True)
        ]
        in_crop = statistics.ranges.keys() & map(shape_of, product(*axes))
        values = {value for index in in_crop for value in statistics.ranges[index]}
        if len(values) == 1:
            yield (
                f"{crop}: all of its raw in {level.path} is {values.pop():g} and shows nothing: "
                "check its translation"
            )


def _contrast_warnings(request: ChunkRequest) -> Iterator[str]:
    level, statistics = request.level, request.statistics
    dtype: np.dtype[Any] = level.metadata.dtype
    white = np.iinfo(dtype).max if dtype.kind == "u" else 1
    is_dark = 0 < statistics.high < white * MIN_RANGE_FRACTION and request.is_complete
    if is_dark and dtype.kind == "u" and dtype.itemsize > 1:
        yield (
            f"{level.path} is {dtype} but has no values above {statistics.high:.0f} around the "
            f"crops, and {white} is read as white: scale it, or store it as uint8"
        )
        return
    # Chunks of padding have no contrast of their own.
    percentiles = [(low, high) for low, high in statistics.percentiles if low < high]
    if percentiles:
        # The median chunk is not affected by the edges of padding.
        low, high = np.median(percentiles, axis=0)
        if high - low < white * MIN_CONTRAST:
            yield (
                f"{level.path} is {dtype}, but 98% of its voxels around the crops are {low:.5g} to "
                f"{high:.5g}, {(high - low) / white:.1%} of the range that is read as black to "
                "white, so that networks see almost no contrast: rescale it to use the range, or "
                "set `normalize: percentile`"
            )


def float_problems(request: ChunkRequest, kind: str) -> Iterator[str]:
    """List NaN and values outside 0..1 in floats; `kind` names the volume in messages."""
    level, statistics = request.level, request.statistics
    if level.metadata.dtype.kind != "f" or not statistics.decoded:
        return
    if statistics.nan:
        yield f"{level.path} contains NaN: replace it, with 0 where nothing is known"
    if statistics.low < -FLOAT_TOLERANCE or statistics.high > 1 + FLOAT_TOLERANCE:
        yield (
            f"{level.path} has values from {statistics.low:g} to {statistics.high:g}, but {kind} "
            "stored as float must be from 0 to 1: scale it, or store it as uint8"
        )


def check_chunks(source: str, request: ChunkRequest, problems: list[str]) -> None:
    """Refuse an external prediction without any chunk, all of which would be read as 0."""
    if not request.stored:
        problems.append(
            f"predictions.{source}: {request.level.path} has no chunks, so that all of it is read "
            "as probability 0: copy it again, or leave the label out of `classes`"
        )


def check_scale(
    source: str,
    by_label: Mapping[str, Sequence[ChunkRequest]],
    problems: list[str],
    warnings: list[str],
) -> None:
    """Check that predictions stored as whole numbers use the range of their type.

    Masks of 0 and 1 are refused. As a probability of a label that is absent may nearly be 0, the
    whole source must look like masks; otherwise, there is a warning.

    Parameters
    ----------
    source
        Name of the external predictions.
    by_label
        Decoded chunks of the predictions of each label.
    problems, warnings
        Lists to append to.
    """
    highest = {
        label: max(decoded, key=lambda request: request.statistics.high)
        for label, requests in by_label.items()
        if (decoded := [request for request in requests if request.statistics.decoded])
    }
    only_masks = all(request.statistics.high <= 1 for request in highest.values())
    is_faint = all(_is_faint(request) for request in highest.values())
    for label, request in highest.items():
        dtype: np.dtype[Any] = request.level.metadata.dtype
        high = request.statistics.high
        if dtype.kind != "u" or high == 0 or high == np.iinfo(dtype).max:
            continue
        if high not in TELLING_MAXIMA and not is_faint:
            continue
        white = np.iinfo(dtype).max
        remedy = f"multiply by {white / high:g}" if high in TELLING_MAXIMA else "scale them"
        text = (
            f"predictions.{source}: no value of {label} is above {high:.0f} (as in "
            f"{request.level.path}), but in {dtype}, {white} is a probability of 1: {remedy}, "
            "or write floats from 0 to 1"
        )
        (problems if high == 1 and only_masks else warnings).append(text)


def _is_faint(request: ChunkRequest) -> bool:
    """Whether integers wider than 8 bits use only a small part of the range of their type."""
    dtype: np.dtype[Any] = request.level.metadata.dtype
    if dtype.kind != "u" or dtype.itemsize == 1 or not request.is_complete:
        return False
    return request.statistics.high < np.iinfo(dtype).max * MIN_RANGE_FRACTION


def check_label(request: ChunkRequest, problems: list[str], warnings: list[str]) -> None:
    """Check that ids are not negative, and that a label has as many voxels as it should."""
    level, statistics = request.level, request.statistics
    if statistics.low < 0:
        problems.append(
            f"{level.path} contains {statistics.low:g}, but ids are 0 or more: mark unknown voxels "
            "with an `unknown` value (docs/own-data.md)"
        )
    annotated = annotated_voxels(level)
    if annotated is None and not request.stored:
        warnings.append(
            f"{level.path} has no chunks, so that all of it is read as background: is the copy "
            "complete?"
        )
    if annotated is None or not request.is_complete or statistics.broken:
        return
    present = statistics.present
    if annotated and not request.stored:
        problems.append(
            f"{level.path} has no chunks, but its annotation counts {annotated:,} labeled voxels: "
            "copy or fetch it again"
        )
    elif abs(present - annotated) > MAX_COUNT_DIFFERENCE * max(present, annotated):
        warnings.append(
            f"{level.path} has {present:,} labeled voxels, but its annotation counts "
            f"{annotated:,}: is the copy complete? (Class balancing uses the annotation)"
        )
