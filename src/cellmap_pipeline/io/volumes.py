"""Volumes on disk: multiscale zarr 2 (OME-NGFF 0.4) and single arrays, read by world position.

Metadata is read with plain JSON, voxels with tensorstore. Formats: OME-NGFF 0.4 multiscales
(https://ngff.openmicroscopy.org/0.4), and arrays with `voxel_size` and `translation` attributes
as in the challenge's submissions.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import TOLERANCE_VOXELS, Grid, Shape, Vector, intersection
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.availability import available_box
from cellmap_pipeline.io.n5 import stored_n5_grids
from cellmap_pipeline.io.ngff import (
    multiscale_metadata,
    read_json_if_there,
    stored_grids,
    write_json,
)
from cellmap_pipeline.io.resampling import resample
from cellmap_pipeline.io.storage import Location, location, read_text

CHUNK = 64


@dataclass
class Volume:
    """A volume in one or several resolutions, finest first.

    `levels` are those that are here; `absent` the paths and voxel sizes of those that the
    metadata declare besides, which a local copy need not hold.
    """

    path: Location
    levels: list[Level]
    attributes: dict[str, Any]
    absent: list[tuple[Location, Vector]] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | Location) -> Volume:
        """Read the metadata of the multiscale group or the array at a path or `s3://` URL.

        Raises
        ------
        InputError
            There is nothing, or nothing that says voxel sizes, or no level.
        """
        place = location(path)
        attributes = read_json_if_there(place / ".zattrs")
        n5 = None
        if attributes is None and read_text(place / ".zarray") is None:
            n5 = read_json_if_there(place / "attributes.json")
            if n5 is None:
                raise InputError(_no_volume(place))
        attributes = n5 or attributes or {}
        stored = stored_grids(place, attributes) if n5 is None else stored_n5_grids(place, n5)
        levels = [Level(level.path, level.grid, n5 is not None) for level in stored if level.grid]
        absent = [(level.path, level.voxel_size) for level in stored if not level.grid]
        if not levels:
            raise InputError(
                f"{place}: none of its levels is here ({_names(absent)}): fetch the one that is "
                "needed (docs/fetching.md)"
            )
        levels.sort(key=lambda level: level.grid.voxel_size)
        return cls(place, levels, attributes, absent)

    @property
    def declared(self) -> list[tuple[Location, Vector]]:
        """Paths and voxel sizes of all levels that the metadata declare, finest first."""
        here = [(level.path, level.grid.voxel_size) for level in self.levels]
        return sorted(here + self.absent, key=lambda level: level[1])

    @property
    def finest(self) -> Vector:
        """The finest voxel size that the metadata declare, here or not."""
        return self.declared[0][1]

    def level_for(self, voxel_size: Sequence[float]) -> Level:
        """The coarsest level at least as fine as `voxel_size` in every axis, else the finest.

        Raises
        ------
        InputError
            That level is not here, and no finer one is.
        """
        fine = [level for level in self.levels if _as_fine(level.grid.voxel_size, voxel_size)]
        if fine:
            return fine[-1]
        declared = self.declared
        wanted = [level for level in declared if _as_fine(level[1], voxel_size)]
        needed = wanted[-1] if wanted else declared[0]
        if needed in self.absent:
            raise InputError(
                f"{self.path}: to be read at {list(voxel_size)} nm it needs a level that is not "
                f"here ({_names([needed])}): fetch it (docs/fetching.md)"
            )
        return self.levels[0]

    def aligned(self, extent: Grid, voxel_size: Vector) -> Grid:
        """A grid of `voxel_size` over `extent`, on this volume's own voxels where it stores them.

        Then reading needs no interpolation, even where labels lie half a voxel off the raw.
        """
        stored = self.level_for(voxel_size).grid
        start, stop = stored.index_box(extent)
        own = stored.box(start, [b - a for a, b in zip(start, stop, strict=True)])
        return own if own.offset(own.at(voxel_size)) == (0, 0, 0) else extent.at(voxel_size)

    def inside(self, grid: Grid) -> NDArray[np.bool_]:
        """Which voxels of `grid` have their centres in the volume, where its source has chunks."""
        level = self.level_for(grid.voxel_size)
        used, within = level.nearest(grid)
        inside = np.zeros(grid.shape, bool)
        if all(len(index) for index in used):
            first, last = [index[0] for index in used], [index[-1] for index in used]
            empty = level.empty_chunks(first, [i + 1 for i in last])
            chunks = level.metadata["chunks"]
            place = [i // n - i[0] // n for i, n in zip(used, chunks, strict=True)]
            inside[within] = ~empty[np.ix_(*place)]
        return inside

    def available(self, grid: Grid, core: Grid) -> Grid:
        """The part of `grid` around `core` whose raw is here.

        Raises
        ------
        InputError
            Chunks under `core` are missing, or nowhere hold any raw, or `grid` lies outside.
        """
        level = self.level_for(grid.voxel_size)
        low, high = available_box(level, *level.grid.index_box(grid), core)
        start, stop = level.grid.index_box(core)
        within = [max(a, b) for a, b in zip(low, start, strict=True)]
        if level.missing_chunks(within, [min(a, b) for a, b in zip(high, stop, strict=True)]).all():
            raise InputError(
                f"{level.path}: the source has no raw at voxels {list(start)} to {list(stop)}: "
                "check the crop's translation, or leave the crop out"
            )
        there = level.grid.box(low, [b - a for a, b in zip(low, high, strict=True)])
        first, last = [], []
        for d, (lo, v) in enumerate(zip(grid.lower, grid.voxel_size, strict=True)):
            first.append(max(0, math.ceil((there.lower[d] - lo) / v - TOLERANCE_VOXELS)))
            last.append(
                min(grid.shape[d], math.floor((there.upper[d] - lo) / v + TOLERANCE_VOXELS))
            )
        return grid.box(first, [b - a for a, b in zip(first, last, strict=True)])

    def read_raw(self, grid: Grid, core: Grid | None = None) -> NDArray[np.float32]:
        """Intensities on `grid`, 0..1 over the range of the stored type.

        Beyond the volume, and beyond the chunks that are here around `core`, the voxels are
        mirrored.

        Parameters
        ----------
        grid
            Where to read.
        core
            The part of it whose raw must be there (default: `grid` inside the volume).

        Returns
        -------
        (z, y, x) float32.

        Raises
        ------
        InputError
            Chunks under `core` are missing, or `grid` lies outside the volume.
        """
        level = self.level_for(grid.voxel_size)
        start, stop = level.grid.index_box(grid, margin=1)
        low, high = available_box(level, start, stop, core or grid)
        voxels = level.read(low, high)
        pad = [(a - s, e - b) for s, a, b, e in zip(start, low, high, stop, strict=True)]
        voxels = _mirror(voxels, pad)
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        values = resample(voxels, level.grid.box(start, shape), grid)
        return values / np.float32(_white(voxels.dtype, level.path))


def create(
    path: Path,
    grid: Grid,
    dtype: str,
    attributes: dict[str, Any] | None = None,
    chunk: int | Shape = CHUNK,
    effort: int = 3,
) -> ts.TensorStore:
    """Make an empty OME-NGFF 0.4 volume with one level `s0` and return that array for writing.

    Its `.zattrs` hold `voxel_size`, `translation` and `shape` as in the challenge's submissions
    (so that packaging copies them as they are), and `attributes`. `effort` is Zstandard's level.
    """
    chunks = (chunk,) * 3 if isinstance(chunk, int) else chunk
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    write_json(path / ".zgroup", {"zarr_format": 2})
    write_json(path / ".zattrs", {"multiscales": [multiscale_metadata(path.name, [grid])]})
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{path}/s0/"},
        "metadata": {
            "shape": grid.shape,
            "chunks": [min(c, n) for c, n in zip(chunks, grid.shape, strict=True)],
            "dtype": np.dtype(dtype).str,
            "compressor": {"id": "blosc", "cname": "zstd", "clevel": effort, "shuffle": 1},
            "dimension_separator": "/",
            "fill_value": 0,
        },
    }
    array = ts.open(spec, create=True).result()
    own = {
        "voxel_size": list(grid.voxel_size),
        "translation": list(grid.translation),
        "shape": list(grid.shape),
    }
    write_json(path / "s0" / ".zattrs", own | (attributes or {}))
    return array


def reopen(path: Path) -> ts.TensorStore:
    """The array of a volume that `create` made, to go on writing it."""
    return ts.open(
        {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/s0/"}}
    ).result()


def _no_volume(place: Location) -> str:
    """Why nothing at a path is a volume."""
    if isinstance(place, Path) and place.is_symlink() and not place.exists():
        return f"{place} is a link to {place.readlink()}, which does not exist: correct it"
    if isinstance(place, Path) and place.is_file():
        return f"{place} is a file, not a volume: convert it to zarr 2 (OME-NGFF 0.4)"
    if read_text(place / "zarr.json") is not None:
        return f"{place} is zarr 3, but zarr 2 is read: write it again with zarr_format=2"
    if isinstance(place, Path) and place.is_dir():
        return (
            f"{place} is not a volume: it has neither .zattrs nor .zarray. Copy or fetch it again, "
            "with files whose names begin with a dot"
        )
    return f"{place} does not exist"


def _mirror(voxels: NDArray, pad: list[tuple[int, int]]) -> NDArray:
    if not any(before or after for before, after in pad):
        return voxels
    return np.pad(voxels, pad, mode="reflect" if min(voxels.shape) > 1 else "edge")


def _white(dtype: np.dtype, path: Location) -> float:
    """The value that stands for 1.0."""
    if dtype.kind == "u":
        return float(np.iinfo(dtype).max)
    if dtype.kind == "f":
        return 1.0
    raise InputError(f"{path} is {dtype}, but raw is uint8, uint16 or float from 0 to 1")


def _names(levels: Sequence[tuple[Location, Vector]]) -> str:
    return ", ".join(f"{path.name}: {list(size)} nm" for path, size in levels)


def _as_fine(stored: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(s <= w * (1 + TOLERANCE_VOXELS) for s, w in zip(stored, wanted, strict=True))


def predicted(grid: Grid, paths: Iterable[Path]) -> Grid | None:
    """The part of a grid that all predictions hold, if any."""
    for path in paths:
        there = Volume.open(path).levels[0].grid
        if not grid.overlaps(there):
            return None
        grid = intersection(grid, there)
    return grid
