"""Volumes of labels: their annotation, and how many voxels of each label they hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Shape
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.ngff import read_json_if_there
from cellmap_pipeline.io.storage import Location
from cellmap_pipeline.io.volumes import Volume

# Voxels of a labelled crop: a terabyte.
MOST_LABELLED = 2**40


@dataclass
class LabelVolume:
    """A label: integer voxels, one value of which may stand for `unknown`."""

    volume: Volume
    unknown: int | None

    @classmethod
    def open(cls, path: str | Location) -> LabelVolume:
        """Open the label at `path`; what its `annotation_type` calls `unknown` is not a label.

        The encoding is that of cellmap-schemas: `cellmap.annotation.annotation_type.encoding` in
        the attributes of the group or of its finest array.
        """
        volume = Volume.open(path)
        largest = max(volume.levels, key=lambda level: level.grid.size)
        if largest.grid.size > MOST_LABELLED:
            raise InputError(
                f"{largest.path}: its shape {list(largest.grid.shape)} is more than any crop has: "
                "check its .zarray"
            )
        unknown = None
        for attributes in (volume.attributes, annotation_attributes(volume)):
            kind = _named(annotation(attributes, volume.path), "annotation_type", volume.path)
            unknown = _named(kind, "encoding", volume.path).get("unknown", unknown)
        if not isinstance(unknown, int | None):
            raise InputError(
                f"{volume.path}: the `unknown` of its encoding is {unknown!r}: write a whole number"
            )
        return cls(volume, unknown)

    def read(self, grid: Grid) -> tuple[NDArray, NDArray[np.bool_]]:
        """Ids on `grid` and where they are known.

        Returns
        -------
        ids
            (z, y, x) of the stored type; 0 where not known.
        known
            (z, y, x) bool; False outside the label and where it says unknown.
        """
        level = self.volume.level_for(grid.voxel_size)
        used, within = level.nearest(grid)
        ids = np.zeros(grid.shape, np.dtype(level.metadata["dtype"]).newbyteorder("="))
        known = np.zeros(grid.shape, bool)
        if not all(len(index) for index in used):
            return ids, known
        values = level.read([index[0] for index in used], [index[-1] + 1 for index in used])
        for axis, index in enumerate(used):
            if len(index) != values.shape[axis]:
                values = values.take(index - index[0], axis)
        ids[within], known[within] = values, True
        if self.unknown is not None:
            known &= ids != self.unknown
            ids *= known
        return ids, known


def annotation_attributes(volume: Volume) -> dict[str, Any]:
    """Attributes of the volume's finest array, where cellmap-schemas puts the annotation.

    A local copy may hold them without the array's voxels.
    """
    finest, _ = volume.declared[0]
    return read_json_if_there(finest / ".zattrs") or {}


def annotation(attributes: dict[str, Any], path: Location) -> dict[str, Any]:
    """What cellmap-schemas' `cellmap.annotation` says in the attributes of a label at `path`.

    Raises
    ------
    InputError
        It is none.
    """
    return _named(_named(attributes, "cellmap", path), "annotation", path)


def annotation_counts(attributes: dict[str, Any], path: Location) -> dict[str, int]:
    """Voxels that are not labelled, by why (`complement_counts`); raises as `annotation`."""
    counts = _named(annotation(attributes, path), "complement_counts", path)
    if not all(isinstance(number, int) for number in counts.values()):
        raise InputError(f"{path}: its `complement_counts` must be whole numbers: correct them")
    return counts


def _named(attributes: dict[str, Any], key: str, path: Location) -> dict[str, Any]:
    value = attributes.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: `{key}` in its .zattrs must hold names and values: correct or remove it"
        )
    return value


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
