"""Positions of the levels of a volume whose metadata give all of them the same translation.

Many writers state a scale per level only. Taken literally, the centers of the levels' first voxels
then coincide, as in levels made by taking every other voxel. Levels made of means have common edges
instead, and taken literally lie up to half of their voxels off. The voxels tell which it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.geometry import TOLERANCE_VOXELS, Grid, Shape, Vector, shape_of
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.formats.array import Format
from cellmap_pipeline.io.formats.ngff import StoredLevel
from cellmap_pipeline.io.label_resampling import resample_labels
from cellmap_pipeline.io.resampling import nearest_indices, resample
from cellmap_pipeline.io.storage import Location

# Boxes of the coarser level in which levels are compared: their side, how many that are not
# constant, and how many are read to find these.
BOX_SIDE_VOXELS = 32
MAX_COMPARED_BOXES = 8
MAX_READ_BOXES = 1000
# Means are rounded: in the stored unit of integers, and as a part of the range of floats.
ROUNDING_ERROR, ROUNDING_ERROR_OF_FLOATS = 1.0, 1 / 128
# Values of a smaller range are labels, or too few to tell a mean from its rounding.
MIN_INTENSITY_RANGE = 8 * ROUNDING_ERROR
# Larger offsets between the edges, and between the centers, of two levels contradict each other.
MAX_OFFSET_VOXELS = 0.25
# A position is certain if at least this many times as many voxels differ at the other one.
MIN_ERROR_RATIO = 2


def with_common_edges(
    voxel_sizes: Sequence[Vector], translations: Sequence[Vector]
) -> list[Vector]:
    """Move levels that have the finest level's translation so that their edges coincide with its.

    Parameters
    ----------
    voxel_sizes, translations
        Of all levels, nm, finest first. Levels with another translation stay where they are.

    Returns
    -------
    Translations of all levels, nm.
    """
    finest_size, finest = np.array(voxel_sizes[0]), np.array(translations[0])
    moved = []
    for size, translation in zip(voxel_sizes, translations, strict=True):
        is_same = np.all(np.abs(finest - translation) <= TOLERANCE_VOXELS * finest_size)
        shift = (np.array(size) - finest_size) / 2 if is_same else np.zeros(3)
        z, y, x = (float(value) for value in translation + shift)
        moved.append((z, y, x))
    return moved


def settle_positions(levels: Sequence[Level], finest: StoredLevel) -> tuple[list[Level], str]:
    """Decide where levels lie that have the same translation as the finest one.

    Their edges coincide with the finest level's, unless the voxels show that the centers of the
    first voxels do.

    Parameters
    ----------
    levels
        Levels that are present, at their stated translations, finest first.
    finest
        The finest level in the metadata. A local copy may lack it.

    Returns
    -------
    levels
        Levels at their positions.
    assumption
        What was assumed and why; empty if levels lie where the metadata state.
    """
    _, *translations = with_common_edges(
        [finest.voxel_size, *(level.grid.voxel_size for level in levels)],
        [finest.translation, *(level.grid.translation for level in levels)],
    )
    moved = [
        replace(level, grid=replace(level.grid, translation=translation))
        for level, translation in zip(levels, translations, strict=True)
    ]
    agreement = _compare_centers(levels, moved, finest)
    settled, reasons = [], []
    for stated, level in zip(levels, moved, strict=True):
        agree = stated == level or agreement[level.path]
        settled.append(stated if agree else level)
        if agree is None:
            reasons.append(
                f"{level.path.name} has the same translation as {finest.path.name} and is read as "
                "if their edges coincided, but its voxels do not show whether they do"
            )
        elif not agree:
            reasons.append(
                f"{level.path.name} has the same translation as {finest.path.name}, but its voxels "
                "are means of others, and it is read as if their edges coincided"
            )
    return settled, "; ".join(reasons)


def _compare_centers(
    stated: Sequence[Level], moved: Sequence[Level], finest: StoredLevel
) -> dict[Location, bool | None]:
    """Compare levels whose position is unclear with the finest one that is present.

    Parameters
    ----------
    stated, moved
        Levels at their stated translations, and with edges that coincide with the finest one's.
    finest
        The finest level in the metadata.

    Returns
    -------
    The result of `centers_agree` for each level that is moved, by its path.
    """
    unclear = [level for before, level in zip(stated, moved, strict=True) if level != before]
    first = moved[0]
    if first not in unclear and first.path != finest.path:
        # It has another translation than the levels in question, and shows nothing of them.
        return dict.fromkeys((level.path for level in unclear), None)
    agreement = {
        level.path: centers_agree(first.path, first.grid, level.path, level.grid, level.stored_as)
        for level in unclear
        if level != first
    }
    if first in unclear:
        # It was made of the finest level, which is not present, as coarser ones were made of it.
        known = [agree for agree in agreement.values() if agree is not None]
        agreement[first.path] = any(known) if known else None
    return agreement


def misplaced_level(levels: Sequence[Level]) -> str:
    """Describe the first level that has neither its edges nor its centers where the finest has.

    Parameters
    ----------
    levels
        Levels of a volume, finest first.

    Returns
    -------
    An empty string if there is none.
    """
    finest, *others = levels
    for level in others:
        size = np.array(level.grid.voxel_size)
        off_edges = np.abs(np.subtract(level.grid.lower, finest.grid.lower))
        off_centers = np.abs(np.subtract(level.grid.translation, finest.grid.translation))
        if np.any(np.minimum(off_edges, off_centers) > MAX_OFFSET_VOXELS * size):
            return (
                f"{level.path.name} begins at {list(level.grid.lower)} nm, but "
                f"{finest.path.name} at {list(finest.grid.lower)} nm"
            )
    return ""


@lru_cache(maxsize=1024)
def centers_agree(
    fine_path: Location,
    fine_grid: Grid,
    coarse_path: Location,
    coarse_grid: Grid,
    stored_as: Format,
) -> bool | None:
    """Whether the voxels of two levels agree if the centers of their first voxels coincide.

    The levels are compared in a few boxes that are present.

    Parameters
    ----------
    fine_path, fine_grid
        Array of the finer level, and its grid.
    coarse_path, coarse_grid
        Those of the coarser level; the grids have common edges.
    stored_as
        Format of the arrays.

    Returns
    -------
    bool or None
        False if they agree if the edges of the levels coincide; None if the voxels do not tell.
    """
    fine = Level(fine_path, fine_grid, stored_as)
    coarse = Level(coarse_path, coarse_grid, stored_as)
    centered = replace(coarse_grid, translation=fine_grid.translation)
    edges_error = centers_error = 0.0
    compared = 0
    for start, stop in _boxes(coarse):
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        voxels = coarse.read(start, stop)
        if voxels.min() == voxels.max():
            continue
        by_edges = _candidates(fine, coarse_grid.box(start, shape))
        by_centers = _candidates(fine, centered.box(start, shape))
        if by_edges is None or by_centers is None:
            continue
        # A single voxel cannot lie at the center of an even number of voxels.
        mean, commonest, _ = by_edges
        edges_error += _error(voxels, mean, [commonest])
        centers_error += _error(voxels, by_centers[0], by_centers[1:])
        compared += 1
        if compared == MAX_COMPARED_BOXES:
            break
    if edges_error * MIN_ERROR_RATIO <= centers_error and centers_error:
        return False
    if centers_error * MIN_ERROR_RATIO <= edges_error and edges_error:
        return True
    return None


def _boxes(level: Level) -> Iterator[tuple[Shape, Shape]]:
    """Yield start and stop of boxes whose chunks are present, in a random order."""
    counts = [-(-n // BOX_SIDE_VOXELS) for n in level.grid.shape]
    number = math.prod(counts)
    rng = np.random.default_rng(0)
    chosen = rng.choice(number, min(number, MAX_READ_BOXES), replace=False, shuffle=True)
    for index in zip(*np.unravel_index(chosen, counts), strict=True):
        start = shape_of(int(i) * BOX_SIDE_VOXELS for i in index)
        stop = shape_of(
            min(a + BOX_SIDE_VOXELS, n) for a, n in zip(start, level.grid.shape, strict=True)
        )
        if not level.missing_chunks(start, stop).any():
            yield start, stop


def _candidates(fine: Level, grid: Grid) -> list[NDArray] | None:
    """Downsample a level to `grid`: means, commonest values, and nearest voxels.

    Returns None if a part of the level is missing.
    """
    start, stop = fine.grid.index_box(grid, margin=1)
    low = [max(0, a) for a in start]
    high = [min(n, b) for n, b in zip(fine.grid.shape, stop, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)) or fine.missing_chunks(low, high).any():
        return None
    values = fine.read(low, high)
    source = fine.grid.box(low, values.shape)
    nearest = values
    for axis, position in enumerate(source.position(grid)):
        step = grid.voxel_size[axis] / source.voxel_size[axis]
        indices = nearest_indices(position, step, grid.shape[axis])
        nearest = nearest.take(indices.clip(0, values.shape[axis] - 1), axis)
    commonest, _ = resample_labels(values, np.ones(values.shape, bool), source, grid)
    return [resample(values, source, grid), commonest, nearest]


def _error(voxels: NDArray, mean: NDArray, others: Sequence[NDArray]) -> float:
    """Return the fraction of voxels that differ from the most similar candidate."""
    differences = [candidate != voxels for candidate in others]
    if voxels.dtype.kind == "f":
        differences.append(np.abs(mean - voxels) > ROUNDING_ERROR_OF_FLOATS * np.ptp(voxels))
    elif int(voxels.max()) - int(voxels.min()) >= MIN_INTENSITY_RANGE:
        differences.append(np.abs(mean - voxels) > ROUNDING_ERROR)
    return min(float(different.mean()) for different in differences)
