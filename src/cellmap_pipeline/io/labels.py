"""Label volumes: their voxels, their annotation, and the number of their labeled voxels."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import TOLERANCE_VOXELS, Grid, Shape
from cellmap_pipeline.io.arrays import Level, array_attributes, spread_indices
from cellmap_pipeline.io.label_resampling import resample_labels
from cellmap_pipeline.io.levels import is_as_fine
from cellmap_pipeline.io.storage import Location, Metadata
from cellmap_pipeline.io.volumes import Volume

# Voxels of a level that is finer than the grid that is read, in memory at once.
MAX_FINER_VOXELS = 2**24
# No labeled crop is larger.
MAX_LABEL_VOXELS = 2**40
# The finest level of at most this many voxels is counted: it shows small objects, too, and is read
# in milliseconds.
PREFERRED_COUNTED_VOXELS = 2**21
# Of a larger level, only some chunks are counted.
MAX_COUNTED_VOXELS = 2**26


@dataclass(frozen=True)
class Encoding:
    """Values with a meaning in a label volume, as in the encodings of cellmap-schemas.

    Attributes
    ----------
    unknown
        Value of voxels whose label is unknown, if there is one.
    absent
        Value of background.
    """

    unknown: int | None = None
    absent: int = 0

    def decode(self, values: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
        """Convert stored values to ids.

        Returns
        -------
        ids
            0 for background and where not known. All other values are kept; if `absent` is not 0,
            stored zeros, which then lie in an object, get the value of `absent`.
        known
            Where the label is known.
        """
        if self.absent:
            absent = values.dtype.type(self.absent)
            swapped = np.where(values == 0, absent, values)
            ids = np.where(values == absent, values.dtype.type(0), swapped)
        else:
            ids = values
        if self.unknown is None:
            return ids, np.ones(values.shape, bool)
        known = values != self.unknown
        return ids * known, known


# All values are ids, and 0 is background.
PLAIN = Encoding()


@dataclass
class LabelVolume:
    """A volume of integer labels.

    Attributes
    ----------
    volume
        The stored volume.
    encoding
        The meaning of its values.
    """

    volume: Volume
    encoding: Encoding

    @classmethod
    def open(cls, path: str | Location) -> LabelVolume:
        """Open the label volume at `path` with the encoding in its annotation.

        That is cellmap-schemas' `cellmap.annotation.annotation_type.encoding`, in the attributes of
        the group, of the finest array that is present, or of the finest one, which a local copy may
        lack; later ones take precedence.

        Raises
        ------
        InputError
            There is no such volume, or its metadata are invalid.
        """
        volume = Volume.open(path)
        largest = max(volume.levels, key=lambda level: level.grid.size)
        if largest.grid.size > MAX_LABEL_VOXELS:
            raise InputError(
                f"{largest.path}: its shape {list(largest.grid.shape)} is larger than any crop: "
                "check its metadata"
            )
        values: dict[str, Any] = {}
        present = volume.levels[0].attributes
        for attributes in (volume.attributes, present, annotation_attributes(volume)):
            kind = named_values(annotation(attributes, volume.path), "annotation_type", volume.path)
            values |= named_values(kind, "encoding", volume.path)
        encoding = _encoding(values, volume.path)
        for level in volume.levels:
            dtype = level.metadata.dtype
            if dtype.kind in "iu" and encoding.absent > np.iinfo(dtype).max:
                raise InputError(
                    f"{level.path}: the `absent` of its encoding is {encoding.absent}, which "
                    f"{dtype} does not hold: correct it"
                )
        return cls(volume, encoding)

    def read(self, grid: Grid) -> tuple[NDArray, NDArray[np.bool_]]:
        """Read ids on `grid`, by overlap where its voxels are larger than the stored ones.

        `io.label_resampling` defines the ids of voxels that several objects overlap. Where no axis
        of `grid` is coarser than the level that is read, this is `read_nearest`.

        Returns
        -------
        ids
            (z, y, x) of the stored type; 0 where not known.
        known
            (z, y, x) bool; False outside the volume and at unknown voxels.
        """
        level = self.volume.level_for(grid.voxel_size)
        if is_as_fine(grid.voxel_size, level.grid.voxel_size):
            return self.read_nearest(grid)
        return _in_slabs(partial(self._read_by_overlap, level), level, grid)

    def _read_by_overlap(self, level: Level, grid: Grid) -> tuple[NDArray, NDArray[np.bool_]]:
        first, last = level.grid.index_box(grid)
        low = [max(0, a) for a in first]
        high = [min(n, b) for n, b in zip(level.grid.shape, last, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            return np.zeros(grid.shape, _native_dtype(level)), np.zeros(grid.shape, bool)
        ids, known = self.encoding.decode(level.read(low, high))
        return resample_labels(ids, known, level.grid.box(low, ids.shape), grid)

    def read_nearest(self, grid: Grid) -> tuple[NDArray, NDArray[np.bool_]]:
        """Read ids on `grid` by nearest voxel, and where they are known; as `read`."""
        level = self.volume.level_for(grid.voxel_size)
        return _in_slabs(partial(self._read_by_nearest, level), level, grid)

    def _read_by_nearest(self, level: Level, grid: Grid) -> tuple[NDArray, NDArray[np.bool_]]:
        used, within = level.nearest_voxels(grid)
        ids, known = np.zeros(grid.shape, _native_dtype(level)), np.zeros(grid.shape, bool)
        if not all(len(index) for index in used):
            return ids, known
        values = level.read([index[0] for index in used], [index[-1] + 1 for index in used])
        for axis, index in enumerate(used):
            if len(index) != values.shape[axis]:
                values = values.take(index - index[0], axis)
        ids[within], known[within] = self.encoding.decode(values)
        return ids, known


def _in_slabs(
    read: Callable[[Grid], tuple[NDArray, NDArray[np.bool_]]], level: Level, grid: Grid
) -> tuple[NDArray, NDArray[np.bool_]]:
    """Read labels on a grid slab by slab, so that few voxels of a finer level are in memory."""
    z, y, x = (
        max(1, size / own) for size, own in zip(grid.voxel_size, level.grid.voxel_size, strict=True)
    )
    voxels_per_plane = z * y * grid.shape[1] * x * grid.shape[2]
    step = max(1, int(MAX_FINER_VOXELS / voxels_per_plane))
    if z * y * x < 1 + TOLERANCE_VOXELS or step >= grid.shape[0]:
        return read(grid)
    ids, known = np.empty(grid.shape, _native_dtype(level)), np.empty(grid.shape, bool)
    for start in range(0, grid.shape[0], step):
        n = min(step, grid.shape[0] - start)
        slab = slice(start, start + n)
        ids[slab], known[slab] = read(grid.box((start, 0, 0), (n, *grid.shape[1:])))
    return ids, known


def _native_dtype(level: Level) -> np.dtype[Any]:
    return level.metadata.dtype.newbyteorder("=")


def _encoding(values: Metadata, path: Location) -> Encoding:
    """Parse an encoding of cellmap-schemas."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(
                f"{path}: the `{name}` of its encoding is {value!r}: write a whole number"
            )
    unknown, absent = values.get("unknown"), values.get("absent", 0)
    if absent < 0:
        raise InputError(
            f"{path}: the `absent` of its encoding is {absent}, but ids are 0 or more: write the "
            "volume again"
        )
    by_value: dict[int, list[str]] = defaultdict(list)
    for name, value in values.items():
        by_value[value].append(name)
    for value, names in by_value.items():
        if len(names) > 1:
            raise InputError(
                f"{path}: its encoding has {value} for both {' and '.join(names)}: correct it"
            )
    return Encoding(unknown, absent)


def annotation_attributes(volume: Volume) -> Metadata:
    """Read the attributes of the volume's finest array, where cellmap-schemas has annotations.

    A local copy may hold them without the array's voxels.
    """
    finest, _ = volume.declared[0]
    return array_attributes(finest, volume.stored_as)


def annotation(attributes: Metadata, path: Location) -> Metadata:
    """Get cellmap-schemas' `cellmap.annotation` from the attributes of the label at `path`.

    Raises
    ------
    InputError
        The annotation is not a mapping.
    """
    return named_values(named_values(attributes, "cellmap", path), "annotation", path)


def annotation_counts(attributes: Metadata, path: Location) -> dict[str, int]:
    """Get the number of unlabeled voxels of each kind (`complement_counts`).

    Raises
    ------
    InputError
        The annotation or its counts are invalid.
    """
    counts = named_values(annotation(attributes, path), "complement_counts", path)
    if not all(isinstance(number, int) for number in counts.values()):
        raise InputError(f"{path}: its `complement_counts` must be whole numbers: correct them")
    return counts


def named_values(attributes: Metadata, key: str, path: Location) -> Metadata:
    """Get the names and values under a key of attributes; none if there is no such key.

    Raises
    ------
    InputError
        The value of the key is not a mapping.
    """
    value = attributes.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: `{key}` in its .zattrs must hold names and values: correct or remove it"
        )
    return value


def present_voxels(label: LabelVolume) -> float:
    """Estimate the number of labeled voxels at the finest level of `label` that is present.

    The number is taken from the annotation (`complement_counts` of cellmap-schemas, on the finest
    array or the group). Otherwise a coarser level is counted and scaled up. If even the coarsest
    level is large, evenly spread chunks of it are counted, the same ones each time.
    """
    finest = label.volume.levels[0].grid
    annotated = _annotated_voxels(label)
    if annotated is not None:
        return annotated
    small = [level for level in label.volume.levels if level.grid.size <= PREFERRED_COUNTED_VOXELS]
    level = small[0] if small else label.volume.levels[-1]
    # A separate handle, so that the chunks read here do not stay in memory.
    level = replace(level)
    labeled = counted = 0
    for start, stop in _boxes(level):
        voxels = level.read(start, stop)
        ids, _ = label.encoding.decode(voxels)
        labeled += int(np.count_nonzero(ids > 0))
        counted += voxels.size
    return labeled / counted * finest.size


def annotated_voxels(level: Level) -> int | None:
    """Number of labeled voxels according to a level's own annotation, or None if not stated."""
    counts = annotation_counts(level.attributes, level.path)
    if not counts:
        return None
    present = counts.get("present", level.grid.size - sum(counts.values()))
    return present if 0 <= present <= level.grid.size else None


def _annotated_voxels(label: LabelVolume) -> float | None:
    """Number of labeled voxels at the finest present level, according to the annotation.

    The annotation counts voxels of the finest declared level.
    """
    grid = label.volume.levels[0].grid
    volume_ratio = math.prod(grid.voxel_size) / math.prod(label.volume.finest_voxel_size)
    for attributes in (annotation_attributes(label.volume), label.volume.attributes):
        counts = annotation_counts(attributes, label.volume.path)
        if not counts:
            continue
        declared_size = round(grid.size * volume_ratio)
        present = counts.get("present", declared_size - sum(counts.values())) / volume_ratio
        # Impossible counts belong to another array.
        if 0 <= present <= grid.size:
            return present
    return None


def _boxes(level: Level) -> Iterator[tuple[Shape, Shape]]:
    """Yield start and stop of the chunks to count: all, or one of each stretch of chunks.

    Of shards, these are the chunks inside.
    """
    shape = level.grid.shape
    chunks = level.metadata.decoded_chunks
    grid = tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    wanted = number = math.prod(grid)
    if level.grid.size > MAX_COUNTED_VOXELS:
        wanted = max(1, MAX_COUNTED_VOXELS // math.prod(chunks))
    numbers = spread_indices(number, wanted)
    for index in zip(*np.unravel_index(numbers, grid), strict=True):
        z, y, x = (int(i) * c for i, c in zip(index, chunks, strict=True))
        stop = [min(a + c, n) for a, c, n in zip((z, y, x), chunks, shape, strict=True)]
        yield (z, y, x), (stop[0], stop[1], stop[2])
