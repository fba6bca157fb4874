"""Writing a volume part by part, with its coarser levels.

Memory is bounded by `importing.boxes`, whatever the size of the volume.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.data.importing.boxes import boxes, output_chunks, source_boxes
from cellmap_pipeline.data.importing.sources.source import VolumeSource, box_slices
from cellmap_pipeline.geometry import Grid, Shape, shape_of
from cellmap_pipeline.io.volumes import CHUNK, create_levels

# The coarsest level has up to this many voxels.
MAX_COARSEST_VOXELS = CHUNK**3
# Translations are stored without the rounding errors of adding up halves, nm.
TRANSLATION_DECIMALS = 6


class VolumeKind(Protocol):
    """How the voxels of raw, or of a label, are written."""

    @property
    def dtype(self) -> str:
        """Type in which they are stored."""

    @property
    def stores_zeros(self) -> bool:
        """Whether chunks of zeros are stored."""

    def convert(self, values: NDArray) -> NDArray:
        """Convert a part of the source to the stored type."""

    def downsample(self, values: NDArray, source: Grid, target: Grid) -> NDArray:
        """Downsample stored voxels on the grid `source` to `target`, which covers the same."""

    def count(self, level: int, values: NDArray) -> None:
        """Take note of a part of a level that is written."""

    def finish(self, path: Path) -> None:
        """Add attributes to the volume, of which all voxels are written."""


def level_grids(grid: Grid) -> list[Grid]:
    """Return the grids of all levels of a volume, the finest first.

    Each has voxels of twice the size of the one before along each axis, except along those on which
    they are twice as large as on another, so that they become more isotropic. All have the same
    lower corner, and cover the volume.
    """
    grids = [grid]
    while grids[-1].size > MAX_COARSEST_VOXELS:
        last = grids[-1]
        sizes = list(zip(last.voxel_size, last.shape, strict=True))
        finest = min(size for size, n in sizes if n > 1)
        coarser = last.at([2 * size if n > 1 and size < 2 * finest else size for size, n in sizes])
        z, y, x = (round(t, TRANSLATION_DECIMALS) for t in coarser.translation)
        grids.append(Grid(coarser.voxel_size, (z, y, x), coarser.shape))
    return grids


def write_volume(source: VolumeSource, kind: VolumeKind, grid: Grid, path: Path) -> None:
    """Write all levels of a volume, with a progress bar.

    Parameters
    ----------
    source
        The volume.
    kind
        How its voxels are written.
    grid
        Its grid.
    path
        Folder to write.

    Raises
    ------
    InputError
        The source is broken, or holds a value that cannot be stored.
    """
    grids = level_grids(grid)
    chunks = output_chunks(source)
    arrays = create_levels(path, grids, kind.dtype, chunks, store_zeros=kind.stores_zeros)
    total = sum(level.size for level in grids)
    with tqdm(total=total, desc="import", unit="voxel", unit_scale=True) as bar:
        for start, stop in source_boxes(source, chunks):
            _copy_box(source, kind, arrays[0], start, stop, chunks)
            bar.update(math.prod(b - a for a, b in zip(start, stop, strict=True)))
        for level in range(1, len(grids)):
            _write_coarser(kind, level, arrays, grids, chunks, bar)
    kind.finish(path)


def _copy_box(
    source: VolumeSource,
    kind: VolumeKind,
    array: ts.TensorStore,
    start: Shape,
    stop: Shape,
    chunks: Shape,
) -> None:
    """Write a box of the finest level. It is freed before the next one is read."""
    values = kind.convert(source.read(start, stop))
    kind.count(0, values)
    target = array[box_slices(start, stop)].translate_to[0]
    # A row of chunks at once, since tensorstore copies what it writes.
    for first, last in boxes(shape_of(values.shape), (chunks[0], chunks[1], values.shape[2])):
        part = box_slices(first, last)
        target[part].write(values[part]).result()


def _write_coarser(
    kind: VolumeKind,
    level: int,
    arrays: list[ts.TensorStore],
    grids: list[Grid],
    chunks: Shape,
    bar: tqdm,
) -> None:
    """Downsample the level before to a level, chunk by chunk."""
    fine, coarse = grids[level - 1], grids[level]
    factors = [round(b / a) for a, b in zip(fine.voxel_size, coarse.voxel_size, strict=True)]
    for start, stop in boxes(coarse.shape, chunks):
        first = [a * factor for a, factor in zip(start, factors, strict=True)]
        last = [b * factor for b, factor in zip(stop, factors, strict=True)]
        values = _read_padded(arrays[level - 1], first, last)
        target = coarse.box(start, [b - a for a, b in zip(start, stop, strict=True)])
        coarser = kind.downsample(values, fine.box(first, values.shape), target)
        kind.count(level, coarser)
        arrays[level][box_slices(start, stop)].write(coarser).result()
        bar.update(coarser.size)


def _read_padded(array: ts.TensorStore, start: list[int], stop: list[int]) -> NDArray:
    """Read a box of which a part may lie beyond the array, whose last voxels are repeated."""
    inside = [min(b, n) for b, n in zip(stop, array.shape, strict=True)]
    values = array[box_slices(start, inside)].read().result()
    return np.pad(values, [(0, b - n) for b, n in zip(stop, inside, strict=True)], "edge")
