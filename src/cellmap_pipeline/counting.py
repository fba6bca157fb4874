"""How many voxels of a label are annotated, without reading all of a big array."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.levels import Level
from cellmap_pipeline.ngff import read_json_if_there
from cellmap_pipeline.volumes import LabelVolume, annotation_attributes, annotation_counts

# A level of this many voxels shows small objects, too, and is read in milliseconds.
ENOUGH_VOXELS = 2**21
# Of a level larger than this, some chunks stand for the rest.
MOST_VOXELS = 2**26


def present_voxels(label: LabelVolume) -> float:
    """Labelled voxels at the finest level of `label` that is here.

    They are what its annotation counts (`complement_counts` of cellmap-schemas, on the finest
    array or the group); else those of a coarser level, as a share of the whole; and where even
    the coarsest is big, those of evenly spread chunks of it, the same each time.
    """
    finest = label.volume.levels[0].grid
    counted = _counted(label)
    if counted is not None:
        return counted
    small = [level for level in label.volume.levels if level.grid.size <= ENOUGH_VOXELS]
    level = small[0] if small else label.volume.levels[-1]
    # A handle of its own: what is read here once does not stay in memory.
    level = replace(level)
    labelled = looked_at = 0
    for start, stop in _boxes(level):
        voxels = level.read(start, stop)
        present = voxels > 0 if label.unknown is None else (voxels > 0) & (voxels != label.unknown)
        labelled += int(np.count_nonzero(present))
        looked_at += voxels.size
    return labelled / looked_at * finest.size


def counted_voxels(level: Level) -> int | None:
    """Labelled voxels of a level by its own annotation; None where that does not say."""
    counts = annotation_counts(read_json_if_there(level.path / ".zattrs") or {}, level.path)
    if not counts:
        return None
    present = counts.get("present", level.grid.size - sum(counts.values()))
    return present if 0 <= present <= level.grid.size else None


def _counted(label: LabelVolume) -> float | None:
    """What the annotation says, which counts voxels of the finest level that is declared."""
    here = label.volume.levels[0].grid
    finer = math.prod(here.voxel_size) / math.prod(label.volume.finest)
    for attributes in (annotation_attributes(label.volume), label.volume.attributes):
        counts = annotation_counts(attributes, label.volume.path)
        if not counts:
            continue
        present = counts.get("present", round(here.size * finer) - sum(counts.values())) / finer
        # Other numbers belong to another array.
        if 0 <= present <= here.size:
            return present
    return None


def _boxes(level: Level) -> Iterator[tuple[Shape, Shape]]:
    """Start and stop of the chunks to read: all, or one in each stretch of equal length."""
    shape = level.grid.shape
    chunks = level.metadata["chunks"]
    grid = tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    number = math.prod(grid)
    numbers = np.arange(number)
    if level.grid.size > MOST_VOXELS:
        wanted = min(number, max(1, MOST_VOXELS // math.prod(chunks)))
        # Not always the same place of a stretch: those may fall into one plane.
        place = np.random.default_rng(0).random(wanted)
        stretches = np.arange(wanted + 1) * number // wanted
        numbers = stretches[:-1] + (place * np.diff(stretches)).astype(int)
    for index in zip(*np.unravel_index(numbers, grid), strict=True):
        z, y, x = (int(i) * c for i, c in zip(index, chunks, strict=True))
        stop = [min(a + c, n) for a, c, n in zip((z, y, x), chunks, shape, strict=True)]
        yield (z, y, x), (stop[0], stop[1], stop[2])
