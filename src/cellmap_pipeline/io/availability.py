"""The part of a volume that is present: local copies hold raw data only around crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape
from cellmap_pipeline.io.arrays import Level


def available_box(
    level: Level, start: Sequence[int], stop: Sequence[int], core: Grid
) -> tuple[Shape, Shape]:
    """Find the largest part of a box around `core` whose chunks are all present.

    While chunks are missing, the outermost layer of chunks with the greatest share of missing ones
    is removed, or, if the outermost layers are complete, one with missing chunks behind it. Chunks
    of `core` may be missing if the source lacks them as well: they cannot be fetched, and read as
    the array's fill value.

    Parameters
    ----------
    level
        The stored array.
    start, stop
        The box, in voxels of `level`.
    core
        The part that must be present.

    Returns
    -------
    Start and stop of the part, in voxels of `level`.

    Raises
    ------
    InputError
        Chunks of `core` are missing, or the box lies outside the volume.
    """
    shape = level.grid.shape
    low = [max(0, a) for a in start]
    high = [min(n, b) for n, b in zip(shape, stop, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        raise InputError(
            f"{level.path}: voxels {list(start)} to {list(stop)} lie outside the volume of "
            f"{list(shape)} voxels: check the crop's translation"
        )
    missing = level.missing_chunks(low, high)
    chunks = level.metadata.chunks
    while missing.any():
        layer = _worst_layer(missing, low, high, chunks, *level.grid.index_box(core))
        if layer is None:
            lacking = int((missing & ~level.empty_chunks(low, high)).sum())
            if not lacking:
                break
            raise InputError(
                f"{level.path}: {lacking} chunks of raw are missing around voxels "
                f"{low} to {high}: fetch the raw of this crop at {list(level.grid.voxel_size)} nm "
                "(docs/fetching.md)"
            )
        axis, first = layer
        keep = slice(1, None) if first else slice(None, -1)
        missing = missing[tuple(keep if d == axis else slice(None) for d in range(3))]
        if first:
            low[axis] = (low[axis] // chunks[axis] + 1) * chunks[axis]
        else:
            high[axis] = (high[axis] - 1) // chunks[axis] * chunks[axis]
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _worst_layer(
    missing: NDArray[np.bool_],
    low: Sequence[int],
    high: Sequence[int],
    chunks: Sequence[int],
    core_start: Sequence[int],
    core_stop: Sequence[int],
) -> tuple[int, bool] | None:
    """Choose the outermost layer of chunks to remove; no layer that the core needs.

    Returns
    -------
    Axis and side (True: first) of the layer with the most missing chunks, or, if those layers are
    complete, of the one with the most missing chunks behind it; None if nothing can be removed.
    """
    best, worst = None, (0.0, 0.0)
    for axis in range(3):
        last = (high[axis] - 1) // chunks[axis]
        for first, clear in (
            (True, core_start[axis] // chunks[axis] - low[axis] // chunks[axis]),
            (False, last - (core_stop[axis] - 1) // chunks[axis]),
        ):
            n = min(clear, missing.shape[axis] - 1)
            if n < 1:
                continue
            layers = missing.take(range(n) if first else range(-n, 0), axis)
            share = layers.take(0 if first else -1, axis).mean()
            behind = 0.0 if share else layers.mean()
            if (share, behind) > worst:
                best, worst = (axis, first), (share, behind)
    return best
