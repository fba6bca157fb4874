"""An N5 or zarr array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from numpy.typing import NDArray

from cellmap_pipeline.data.importing.sources.source import (
    NOT_STATED,
    StatedSize,
    check_decoded_bytes,
    check_size,
)
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.formats.array import ARRAY_FILES, ATTRIBUTES_FILES, Format
from cellmap_pipeline.io.storage import read_json_if_present
from cellmap_pipeline.io.volumes import Volume

MARKERS = (*ARRAY_FILES.values(), *ATTRIBUTES_FILES.values(), ".zgroup")
STORE_SUFFIXES = (".n5", ".zarr")
MAX_LISTED = 20
# The grid of an array is of no interest here.
ANY_GRID = Grid((1, 1, 1), (0, 0, 0), (1, 1, 1))


class StoredArray:
    """A volume in an N5 or zarr array, or the finest level of a multiscale group.

    See `VolumeSource`.

    Parameters
    ----------
    path
        The container, or the group or array itself.
    array
        Path of the group or array in the container.

    Raises
    ------
    InputError
        There is no such array, or it cannot be read.
    """

    def __init__(self, path: Path, array: str | None) -> None:
        place = path / array.strip("/") if array else path
        if not place.is_dir():
            raise InputError(f"{place} does not exist: correct --array")
        self.level, self.stated_size = _open(place)
        self.name = str(self.level.path)
        metadata = self.level.metadata
        z, y, x = metadata.shape
        self.shape = (z, y, x)
        self.dtype = metadata.dtype.newbyteorder("=")
        check_size(self.name, self.shape)
        check_decoded_bytes(f"a chunk of {self.name}", metadata.chunk_bytes)
        z, y, x = metadata.decoded_chunks
        self.chunks = (z, y, x)

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray:
        """Read the voxels of a box."""
        return self.level.read(start, stop).astype(self.dtype, copy=False)

    def close(self) -> None:
        """Nothing stays open."""


def is_store(path: Path) -> bool:
    """Whether a folder is, or lies in, an N5 or zarr container."""
    in_container = any(part.endswith(STORE_SUFFIXES) for part in path.parts)
    return in_container or any((path / marker).is_file() for marker in MARKERS)


def _open(place: Path) -> tuple[Level, StatedSize]:
    """Open an array, and read the voxel size that its metadata or its group's state."""
    shapes = _stored_shapes(place)
    for shape in shapes.values():
        if not isinstance(shape, list) or len(shape) != 3:
            raise InputError(
                f"{place} has the shape {shape}, but must have three axes, z, y, x: save one "
                "channel and one time"
            )
    try:
        volume = Volume.open(place)
    except InputError as error:
        # Its metadata may lack a position. That of an array alone is not needed.
        for stored_as in shapes:
            return Level(place, ANY_GRID, stored_as), NOT_STATED
        inside = sorted(path.name for path in place.iterdir() if path.is_dir())[:MAX_LISTED]
        raise InputError(
            f"{error}; or name an array in it by --array (it holds {', '.join(inside) or 'none'})"
        ) from None
    level, (finest, _) = volume.levels[0], volume.declared[0]
    if level.path != finest:
        raise InputError(
            f"{place}: its finest level, {finest.name}, is missing: copy it, or name another level "
            f"by --array, such as {level.path.name}, with its own voxel size"
        )
    return level, level.grid.voxel_size


def _stored_shapes(place: Path) -> dict[Format, object]:
    """Read the shape of an array, by its format; {} if there is no array."""
    found = {stored_as: read_json_if_present(place / file) or {}
             for stored_as, file in ARRAY_FILES.items()}  # fmt: skip
    keys = ("shape", "dimensions")
    return {f: stored[key] for f, stored in found.items() for key in keys if key in stored}
