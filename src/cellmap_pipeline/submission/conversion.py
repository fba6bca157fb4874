"""Conversion of labels and predictions of any type and grid to the challenge's format."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fastremap
import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import PLAIN, LabelVolume, annotation_attributes, named_values
from cellmap_pipeline.io.resampling import nearest_indices, resample
from cellmap_pipeline.io.volumes import CHUNK, Level
from cellmap_pipeline.scoring.alignment import MAX_SIZE_RATIO
from cellmap_pipeline.scoring.archive import MAX_FEW_CHUNKS, MIN_CHUNK_VOXELS

# Zstd runs in one thread. The bytes of Blosc in numcodecs depend on the order in which its threads
# finish.
CODEC = Zstd(level=3)
# Codecs that the evaluator's zarr can always read.
KNOWN_CODECS = {None, "blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma"}
UNSIGNED_DTYPES = ("|u1", "<u2", "<u4", "<u8")


@dataclass
class Converter:
    """Conversion of a stored label to a row of the manifest.

    The attribute `cellmap_pipeline: {"kind": …}` of the array defines the meaning of its voxels:
    `probability` (0 to the highest value of an unsigned type, or 0..1 in floats), or `labels`
    (0/1 or ids, in the final type). Without it, instance classes hold ids; semantic classes hold
    probabilities in floats, or a mask in integers, whose only value above 0 is inside.

    Semantic labels become uint8 0/1: they are interpolated linearly, then thresholded above one
    half (from 128 of 255). Instance labels are resampled by overlap and stored in the
    smallest unsigned type that holds the ids; probabilities of an instance class become a mask,
    whose connected components the evaluator counts as objects. Voxels outside the stored extent
    are background.

    Attributes
    ----------
    row
        Row of the manifest.
    volume
        The stored label.
    level
        Its resolution level that is converted.
    kind
        `labels`, `probability`, or None if the array does not say.
    """

    row: CropLabel
    volume: LabelVolume
    level: Level
    kind: str | None

    @classmethod
    def open(cls, path: Path, row: CropLabel) -> Converter:
        """Open the label at `path` at the resolution level that fits `row` best.

        Raises
        ------
        InputError
            There is no readable volume, it does not overlap the crop, has far more voxels or chunks
            in it than fit, or its `kind` is unknown.
        """
        volume = LabelVolume.open(path)
        level = volume.volume.level_for(row.grid.voxel_size)
        if not level.grid.overlaps(row.grid):
            raise InputError(
                f"{path} does not overlap crop {row.crop}: it starts at "
                f"{list(level.grid.translation)} nm, the crop at {list(row.grid.translation)} nm: "
                "correct its translation"
            )
        _check_size(level, row)
        kind = named_values(annotation_attributes(volume.volume), "cellmap_pipeline", path).get(
            "kind"
        )
        if kind not in (None, "labels", "probability"):
            raise InputError(
                f"{path}: the attribute cellmap_pipeline.kind is {kind!r} but must be 'labels' or "
                "'probability'"
            )
        if kind == "probability" and level.metadata.dtype.kind == "i":
            raise InputError(
                f"{path}: its probabilities are {level.metadata.dtype}, but must be floats from 0 "
                "to 1, or unsigned integers up to the highest value of their type: convert them"
            )
        return cls(row, volume, level, kind)

    @property
    def holds_ids(self) -> bool:
        """Whether the voxels are ids of instances."""
        return is_instance(self.row.label) and self.kind != "probability"

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the stored voxels."""
        return self.level.metadata.dtype

    def can_copy(self) -> bool:
        """Whether the stored chunks can be copied into the submission without conversion.

        An array of kind `labels` is trusted; a mask without a kind is read completely.
        """
        if self.level.stored_as != "zarr":
            return False
        stored = self.level.metadata.stored
        compressor = stored.get("compressor")
        codec = None if compressor is None else compressor["id"]
        plain = stored.get("fill_value") == 0 and not stored.get("filters")
        plain = plain and codec in KNOWN_CODECS and "order" in stored
        aligned = self.level.grid.offset(self.row.grid) == (0, 0, 0)
        if not plain or not aligned or self.level.grid.shape != self.row.grid.shape:
            return False
        if self.kind == "probability" or self.volume.encoding != PLAIN:
            return False
        if self.holds_ids:
            return stored["dtype"] in UNSIGNED_DTYPES
        return stored["dtype"] == "|u1" and (self.kind == "labels" or self._foreground_value == 1)

    def target_dtype(self) -> np.dtype[Any]:
        """Type of the converted voxels.

        Raises
        ------
        InputError
            Ids are negative, fractional or too large, or a mask holds several values.
        """
        if not self.holds_ids:
            if self.kind != "probability" and self.stored_dtype.kind in "iu":
                _ = self._foreground_value  # Raises for several values.
            return np.dtype("u1")
        highest = 0
        for values in self._blocks():
            integral = values.dtype.kind != "f" or np.array_equal(values, np.trunc(values))
            if not (integral and values.min() >= 0 and np.isfinite(values.max())):
                raise InputError(
                    f"{self.level.path}: {self.row.label} is an instance class, but holds ids that "
                    "are not whole numbers of 0 or more: write ids, or mark the array as "
                    "probabilities with the attribute cellmap_pipeline: {'kind': 'probability'}"
                )
            highest = max(highest, int(values.max()))
        if highest >= 2**64:
            raise InputError(f"{self.level.path}: the id {highest} does not fit 64 bits: renumber")
        return np.min_scalar_type(highest)

    def chunks(self, dtype: np.dtype[Any]) -> Iterator[tuple[str, bytes]]:
        """Yield keys and compressed chunks, sorted by key; empty chunks are left out."""
        counts = [-(-n // CHUNK) for n in self.row.grid.shape]
        indices = itertools.product(*(range(n) for n in counts))
        for key, index in sorted((".".join(map(str, index)), index) for index in indices):
            start = [i * CHUNK for i in index]
            shape = [min(CHUNK, n - a) for n, a in zip(self.row.grid.shape, start, strict=True)]
            voxels = self._converted(self.row.grid.box(start, shape))
            if voxels.any():
                chunk = np.zeros((CHUNK,) * 3, dtype)
                chunk[tuple(slice(n) for n in shape)] = voxels
                yield key, bytes(CODEC.encode(chunk))

    def _converted(self, grid: Grid) -> NDArray[Any]:
        if self.holds_ids:
            return self.volume.read(grid)[0]
        source = self.level.grid
        first, last = source.index_box(grid, margin=1)
        low = [max(0, a) for a in first]
        high = [min(n, b) for n, b in zip(source.shape, last, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            return np.zeros(grid.shape, bool)
        values = self._probability(self.level.read(low, high))
        inside = resample(values, source.box(low, values.shape), grid) > 0.5
        for axis, start in enumerate(source.position(grid)):
            step = grid.voxel_size[axis] / source.voxel_size[axis]
            index = nearest_indices(start, step, grid.shape[axis])
            outside = (index < 0) | (index >= source.shape[axis])
            inside[(slice(None),) * axis + (outside,)] = False
        return inside

    def _probability(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Convert stored values to probabilities 0..1."""
        if values.dtype.kind == "f":
            if not (values.min() >= 0 and values.max() <= 1):
                raise InputError(
                    f"{self.level.path} holds floats from {values.min()} to {values.max()}, but "
                    "probabilities lie in 0..1: apply the sigmoid, or write a mask"
                )
            return values.astype(np.float32)
        if self.kind == "probability" and values.dtype.kind == "u":
            return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
        return (self.volume.encoding.decode(values)[0] > 0).astype(np.float32)

    @cached_property
    def _foreground_value(self) -> int:
        """The only value above 0 of a mask (1 if it is empty)."""
        found: set[int] = set()
        for values in self._blocks():
            found.update(int(v) for v in fastremap.unique(values))
        found.discard(0)
        if len(found) > 1 or any(v < 0 for v in found):
            raise InputError(
                f"{self.level.path}: {self.row.label} is a semantic class, but holds the values "
                f"{sorted(found)[:5]}: write 0 and 1, or mark the array as probabilities with the "
                "attribute cellmap_pipeline: {'kind': 'probability'}"
            )
        return found.pop() if found else 1

    def _blocks(self) -> Iterator[NDArray[Any]]:
        """Read the stored voxels in the crop chunk by chunk; unknown voxels are background."""
        grid, chunks = self.level.grid, self.level.metadata.chunks
        first, last = grid.index_box(self.row.grid)
        ranges = [
            range(max(0, a) // c * c, min(n, b), c)
            for a, b, n, c in zip(first, last, grid.shape, chunks, strict=True)
        ]
        for start in itertools.product(*ranges):
            stop = [min(a + c, n) for a, c, n in zip(start, chunks, grid.shape, strict=True)]
            yield self.volume.encoding.decode(self.level.read(start, stop))[0]


def _check_size(level: Level, row: CropLabel) -> None:
    """Bound the voxels and the chunks that are read for a crop, as the check of a zip does.

    Raises
    ------
    InputError
        There are too many in the crop.
    """
    first, last = level.grid.index_box(row.grid)
    low = [max(0, a) for a in first]
    high = [min(n, b) for n, b in zip(level.grid.shape, last, strict=True)]
    voxels = math.prod(b - a for a, b in zip(low, high, strict=True))
    if voxels > MAX_SIZE_RATIO * row.grid.size:
        raise InputError(
            f"{level.path} has {voxels:,} voxels of {list(level.grid.voxel_size)} nm in crop "
            f"{row.crop}, which has {row.grid.size:,}: check its voxel size, or write it on a "
            "coarser grid"
        )
    chunks = level.metadata.chunks
    count = math.prod(-(-b // c) - a // c for a, b, c in zip(low, high, chunks, strict=True))
    limit = max(MAX_FEW_CHUNKS, row.grid.size // MIN_CHUNK_VOXELS)
    if count > limit:
        raise InputError(
            f"{level.path} has {count:,} chunks of {list(chunks)} voxels in crop {row.crop}, above "
            f"the limit of {limit:,}: store larger ones"
        )
