"""Volumes: multiscale zarr (OME-NGFF), n5 and single arrays, read by world position.

Metadata is read as plain JSON, voxels with tensorstore. Formats: OME-NGFF multiscales
(https://ngff.openmicroscopy.org; 0.4 in zarr 2, 0.5 in zarr 3), arrays with `voxel_size` and
`translation` attributes as in the challenge's submissions, and n5 (`io.formats.n5`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import (
    TOLERANCE_VOXELS,
    Grid,
    Shape,
    Vector,
    intersection,
    shape_of,
)
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.availability import available_box
from cellmap_pipeline.io.files import PARTIAL_SUFFIX
from cellmap_pipeline.io.formats import registry
from cellmap_pipeline.io.formats.array import ARRAY_FILES, ATTRIBUTES_FILES, Format
from cellmap_pipeline.io.formats.n5 import stored_n5_grids
from cellmap_pipeline.io.formats.ngff import multiscale_metadata, stored_grids
from cellmap_pipeline.io.levels import is_as_fine, level_to_read
from cellmap_pipeline.io.pyramids import settle_positions
from cellmap_pipeline.io.resampling import resample
from cellmap_pipeline.io.storage import Location, Metadata, kvstore, location, read_json_files

CHUNK = 64


@dataclass
class Volume:
    """A volume in one or several resolutions.

    Attributes
    ----------
    path
        The multiscale group or the array.
    levels
        Levels that are present, finest first.
    attributes
        Attributes of the group or array.
    absent
        Paths and voxel sizes of the other levels in the metadata. A local copy may lack levels.
    stored_as
        Format of the volume.
    assumption
        Positions of levels that are assumed, other than the metadata state; see `io.pyramids`.
    """

    path: Location
    levels: list[Level]
    attributes: Metadata
    absent: list[tuple[Location, Vector]] = field(default_factory=list)
    stored_as: Format = "zarr"
    assumption: str = ""

    @classmethod
    def open(cls, path: str | Location) -> Volume:
        """Read the metadata of the multiscale group or the array at a path or `s3://` URL.

        Raises
        ------
        InputError
            There is no volume, its metadata do not define voxel sizes, or no level is present.
        """
        place = location(path)
        stored_as, attributes = _read_container(place)
        if stored_as == "n5":
            stored = stored_n5_grids(place, attributes)
        else:
            stored = stored_grids(place, attributes, stored_as)
        levels = [Level(level.path, level.grid, stored_as) for level in stored if level.grid]
        absent = [(level.path, level.voxel_size) for level in stored if not level.grid]
        if not levels:
            raise InputError(
                f"{place}: none of its levels is present ({_list_levels(absent)}): fetch the one "
                "that is needed (docs/fetching.md)"
            )
        levels.sort(key=lambda level: level.grid.voxel_size)
        finest = min(stored, key=lambda level: level.voxel_size)
        levels, assumption = settle_positions(levels, finest)
        return cls(place, levels, attributes, absent, stored_as, assumption)

    @property
    def declared(self) -> list[tuple[Location, Vector]]:
        """Paths and voxel sizes of all levels in the metadata, finest first."""
        present = [(level.path, level.grid.voxel_size) for level in self.levels]
        return sorted(present + self.absent, key=lambda level: level[1])

    @property
    def finest_voxel_size(self) -> Vector:
        """Voxel size of the finest level in the metadata, nm."""
        return self.declared[0][1]

    def level_for(self, voxel_size: Sequence[float]) -> Level:
        """Choose the level that is read at `voxel_size` (`io.levels.level_to_read`).

        If that level is not present, the coarsest finer one is taken.

        Raises
        ------
        InputError
            Neither the level nor a finer one is present.
        """
        declared = self.declared
        needed, size = declared[level_to_read([size for _, size in declared], voxel_size)]
        for level in self.levels:
            if level.path == needed:
                return level
        finer = [level for level in self.levels if is_as_fine(level.grid.voxel_size, voxel_size)]
        if not finer:
            raise InputError(
                f"{self.path}: reading it at {list(voxel_size)} nm takes a level that is not "
                f"present ({_list_levels([(needed, size)])}): fetch it (docs/fetching.md)"
            )
        return finer[-1]

    def aligned(self, extent: Grid, voxel_size: Vector) -> Grid:
        """Make a grid of `voxel_size` over `extent`, on stored voxels if possible.

        Reading those needs no interpolation, even if `extent` lies half a voxel off.
        """
        stored = self.level_for(voxel_size).grid
        start, stop = stored.index_box(extent)
        own = stored.box(start, [b - a for a, b in zip(start, stop, strict=True)])
        return own if own.offset(own.at(voxel_size)) == (0, 0, 0) else extent.at(voxel_size)

    def inside(self, grid: Grid) -> NDArray[np.bool_]:
        """Mark the voxels of `grid` whose centers lie in the volume and in chunks of its source."""
        level = self.level_for(grid.voxel_size)
        used, within = level.nearest_voxels(grid)
        inside = np.zeros(grid.shape, bool)
        if all(len(index) for index in used):
            first, last = [index[0] for index in used], [index[-1] for index in used]
            empty = level.empty_chunks(first, [i + 1 for i in last])
            chunks = level.metadata.chunks
            chunk_index = [i // n - i[0] // n for i, n in zip(used, chunks, strict=True)]
            inside[within] = ~empty[np.ix_(*chunk_index)]
        return inside

    def available(self, grid: Grid, core: Grid) -> Grid:
        """Find the part of `grid` around `core` whose chunks are present.

        Raises
        ------
        InputError
            Chunks of `core` are missing, the source has none of them, or `grid` lies outside the
            volume.
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
        present = level.grid.box(low, [b - a for a, b in zip(low, high, strict=True)])
        first, last = [], []
        for d, (lo, v) in enumerate(zip(grid.lower, grid.voxel_size, strict=True)):
            first.append(max(0, math.ceil((present.lower[d] - lo) / v - TOLERANCE_VOXELS)))
            last.append(
                min(grid.shape[d], math.floor((present.upper[d] - lo) / v + TOLERANCE_VOXELS))
            )
        return grid.box(first, [b - a for a, b in zip(first, last, strict=True)])

    def read_raw(self, grid: Grid, core: Grid | None = None) -> NDArray[np.float32]:
        """Read intensities on `grid`, 0..1 over the range of the stored type; floats are clipped.

        Voxels outside of the volume, and of the chunks that are present around `core`, are
        mirrored.

        Parameters
        ----------
        grid
            Where to read.
        core
            The part of `grid` that must be present (default: all of `grid` inside the volume).

        Returns
        -------
        (z, y, x) float32.

        Raises
        ------
        InputError
            Chunks of `core` are missing, or `grid` lies outside the volume.
        """
        level = self.level_for(grid.voxel_size)
        start, stop = level.grid.index_box(grid, margin=1)
        low, high = available_box(level, start, stop, core or grid)
        voxels = level.read(low, high)
        pad = [(a - s, e - b) for s, a, b, e in zip(start, low, high, stop, strict=True)]
        voxels = _mirror(voxels, pad)
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        values = resample(voxels, level.grid.box(start, shape), grid)
        values = values / np.float32(max_intensity(voxels.dtype, level.path))
        # Floats may exceed the range by rounding, and a negative number has no power (gamma).
        return values.clip(0, 1) if voxels.dtype.kind == "f" else values


def create(
    path: Path,
    grid: Grid,
    dtype: str,
    attributes: Metadata | None = None,
    chunk: int | Shape = CHUNK,
    compression_level: int = 3,
) -> ts.TensorStore:
    """Create an empty OME-NGFF volume with one level `s0` and return that array for writing.

    See `create_levels`; `attributes` are further attributes of the array.
    """
    (array,) = create_levels(path, [grid], dtype, chunk, compression_level)
    if attributes:
        add_attributes(path / "s0", attributes)
    return array


def create_levels(
    path: Path,
    grids: Sequence[Grid],
    dtype: str,
    chunk: int | Shape = CHUNK,
    compression_level: int = 3,
    store_zeros: bool = False,
) -> list[ts.TensorStore]:
    """Create an empty OME-NGFF volume with levels `s0`, `s1`, … and return them for writing.

    It is written in `io.formats.registry.OUTPUT_FORMAT`. Each array has the attributes
    `voxel_size`, `translation` and `shape`, as in the challenge's submissions. A volume at `path`
    is replaced.

    Parameters
    ----------
    path
        Folder of the volume.
    grids
        Grids of the arrays, finest first.
    dtype
        Type of their voxels.
    chunk
        Size of their chunks, voxels.
    compression_level
        Level of Zstandard.
    store_zeros
        Whether chunks of zeros are stored, so that all chunks are present. Missing ones are read as
        zeros, too, but those of raw count as not fetched.
    """
    chunks = (chunk,) * 3 if isinstance(chunk, int) else chunk
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    stored_as = registry.OUTPUT_FORMAT
    writer = registry.WRITERS[stored_as]
    writer.create_group(path)
    # Volumes are mostly written in a temporary folder; viewers show the name.
    name = path.name.removesuffix(PARTIAL_SUFFIX)
    writer.add_attributes(path, {"multiscales": [multiscale_metadata(name, grids)]})
    arrays = []
    for number, grid in enumerate(grids):
        level = path / f"s{number}"
        clipped = shape_of(min(c, n) for c, n in zip(chunks, grid.shape, strict=True))
        metadata = writer.array_metadata(grid.shape, clipped, np.dtype(dtype), compression_level)
        spec = {
            "driver": stored_as,
            "kvstore": kvstore(level),
            "metadata": metadata,
            "store_data_equal_to_fill_value": store_zeros,
        }
        arrays.append(ts.open(spec, create=True).result())
        position = {
            "voxel_size": list(grid.voxel_size),
            "translation": list(grid.translation),
            "shape": list(grid.shape),
        }
        writer.add_attributes(level, position)
    return arrays


def reopen(path: Path) -> ts.TensorStore:
    """Open the array of a volume made by `create` for further writing."""
    stored_as, _ = _read_container(path / "s0")
    return ts.open({"driver": stored_as, "kvstore": kvstore(path / "s0")}).result()


def add_attributes(path: Path, attributes: Metadata) -> None:
    """Add attributes to those of a volume made by `create`."""
    stored_as, _ = _read_container(path)
    registry.WRITERS[stored_as].add_attributes(path, attributes)


def is_volume(place: Location) -> bool:
    """Whether a location holds an array or a multiscale group, rather than another group.

    Raises
    ------
    InputError
        Its metadata are not JSON, or cannot be read.
    """
    for stored_as, (array, attributes) in _stored_metadata(place).items():
        if array and ("shape" in array or "dimensions" in array):
            return True
        file = place / ATTRIBUTES_FILES[stored_as]
        if "multiscales" in registry.parse_attributes(attributes or {}, stored_as, file):
            return True
    return False


def _read_container(place: Location) -> tuple[Format, Metadata]:
    """Read the format and the attributes of the group or array at a location."""
    for stored_as, (array, attributes) in _stored_metadata(place).items():
        if attributes is not None or array is not None:
            return stored_as, registry.parse_attributes(
                attributes or {}, stored_as, place / ATTRIBUTES_FILES[stored_as]
            )
    raise InputError(_no_volume(place))


def _stored_metadata(place: Location) -> dict[Format, tuple[Metadata | None, Metadata | None]]:
    """Read the metadata files of an array, and of attributes, of each format at a location."""
    names = list(dict.fromkeys([*ARRAY_FILES.values(), *ATTRIBUTES_FILES.values()]))
    found = dict(zip(names, read_json_files(place, names), strict=True))
    return {
        stored_as: (found[file], found[ATTRIBUTES_FILES[stored_as]])
        for stored_as, file in ARRAY_FILES.items()
    }


def _no_volume(place: Location) -> str:
    """Explain why there is no volume at a path."""
    if isinstance(place, Path) and place.is_symlink() and not place.exists():
        return f"{place} is a link to {place.readlink()}, which does not exist: correct it"
    if isinstance(place, Path) and place.is_file():
        return f"{place} is a file, not a volume: convert it to zarr (OME-NGFF)"
    if isinstance(place, Path) and place.is_dir():
        return (
            f"{place} is not a volume: it has neither .zattrs nor .zarray nor zarr.json. Copy or "
            "fetch it again, with files whose names begin with a dot"
        )
    return f"{place} does not exist"


def _mirror(voxels: NDArray, pad: list[tuple[int, int]]) -> NDArray:
    if not any(before or after for before, after in pad):
        return voxels
    return np.pad(voxels, pad, mode="reflect" if min(voxels.shape) > 1 else "edge")


def max_intensity(dtype: np.dtype, path: Location) -> float:
    """Return the stored value that is read as 1.0.

    Raises
    ------
    InputError
        The array at `path` is of a type that raw cannot have.
    """
    if dtype.kind == "u":
        return float(np.iinfo(dtype).max)
    if dtype.kind == "f":
        return 1.0
    raise InputError(f"{path} is {dtype}, but raw is uint8, uint16 or float from 0 to 1")


def _list_levels(levels: Sequence[tuple[Location, Vector]]) -> str:
    return ", ".join(f"{path.name}: {list(size)} nm" for path, size in levels)


def common_part(grid: Grid, paths: Iterable[Path]) -> Grid | None:
    """Return the part of `grid` that lies inside all volumes at `paths`, or None."""
    for path in paths:
        stored = Volume.open(path).levels[0].grid
        if not grid.overlaps(stored):
            return None
        grid = intersection(grid, stored)
    return grid
