"""Levels of the volumes of a source: their metadata, and the files that hold their chunks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from cellmap_pipeline.data.fetching.mirror import Mirror, RemoteFile
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector, shape_of
from cellmap_pipeline.io.formats.array import (
    ARRAY_FILES,
    ATTRIBUTES_FILES,
    MAX_CHUNK_BYTES,
    ArrayMetadata,
    Format,
)
from cellmap_pipeline.io.formats.group_models import MAX_LEVELS
from cellmap_pipeline.io.formats.n5 import level_names, stored_n5_grids
from cellmap_pipeline.io.formats.ngff import DeclaredLevel, declared_levels
from cellmap_pipeline.io.formats.registry import parse_array, parse_attributes
from cellmap_pipeline.io.levels import level_to_read
from cellmap_pipeline.io.pyramids import with_common_edges
from cellmap_pipeline.io.storage import parse_metadata, read_json

ZARR_FORMATS: tuple[Format, ...] = ("zarr", "zarr3")
# Metadata files of a group and of an array, in the order in which they are fetched.
GROUP_METADATA: dict[Format, tuple[str, ...]] = {
    "zarr": (".zgroup", ".zattrs"),
    "zarr3": ("zarr.json",),
    "n5": ("attributes.json",),
}
ARRAY_METADATA = GROUP_METADATA | {"zarr": (".zattrs", ".zarray")}

# A level of the largest volume of the challenge has a tenth of that in chunks of 64³.
MAX_FILES_PER_LEVEL = 5_000_000
SOURCE_IS_BROKEN = "the source is broken, so leave the crop out or name another source"
# Voxels of one file, a chunk or a shard, which is held in memory.
MAX_FILE_VOXEL_BYTES = MAX_CHUNK_BYTES


@dataclass(frozen=True)
class ArrayLevel:
    """A level to fetch: the array at `key`, its grid, and its metadata.

    Raises
    ------
    ValueError
        Its files are too large.
    """

    key: str
    grid: Grid
    metadata: ArrayMetadata

    def __post_init__(self) -> None:
        if self.file_voxel_bytes > MAX_FILE_VOXEL_BYTES:
            chunks = list(self.metadata.chunks)
            raise ValueError(f"a file of {chunks} voxels is larger than 2 GiB")

    @property
    def file_voxel_bytes(self) -> int:
        """Size of the voxels in one file."""
        return math.prod(self.metadata.chunks) * self.metadata.dtype.itemsize

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Voxel size of its grid, nm."""
        return self.grid.voxel_size

    def files(self, start: Sequence[int], stop: Sequence[int]) -> Iterator[RemoteFile]:
        """Yield the files of the chunks in a box, clipped to the array.

        Raises
        ------
        InputError
            There are too many.
        """
        axes = []
        chunks = self.metadata.chunks
        for a, b, n, chunk in zip(start, stop, self.grid.shape, chunks, strict=True):
            axes.append(range(max(a, 0) // chunk, -(-min(b, n) // chunk)))
        n_files = math.prod(map(len, axes))
        if n_files > MAX_FILES_PER_LEVEL:
            raise InputError(
                f"{self.key}: {n_files:,} files of {list(chunks)} voxels would be fetched, more "
                f"than {MAX_FILES_PER_LEVEL:,}: its metadata are wrong, or the crop is"
            )
        for index in product(*axes):
            name = self.metadata.chunk_name(index)
            yield RemoteFile(self.key, name, self.metadata.max_file_bytes)


Level = TypeVar("Level", DeclaredLevel, ArrayLevel)


def group_keys(key: str) -> list[str]:
    """List a key and the keys of all groups that contain it, outermost first."""
    parts = key.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts) + 1)]


def fetch_metadata(mirror: Mirror, keys: Iterable[str], names: Sequence[str]) -> None:
    """Fetch metadata files. Those of arrays are fetched last: they mark an array as complete."""
    for key in keys:
        for name in names:
            mirror.copy_small(key, name)
    mirror.record_absent()


def fetch_attributes(mirror: Mirror, key: str, stored_as: Format) -> None:
    """Fetch the attributes of an array, but nothing that makes it look present."""
    if stored_as == "zarr":
        mirror.copy_small(key, ".zattrs")
        return
    content = mirror.read_small(key, ATTRIBUTES_FILES[stored_as])
    if content is not None:
        stored = parse_metadata(content, f"{mirror.source}/{key}", SOURCE_IS_BROKEN)
        attributes = stored.get("attributes", {})
        mirror.write_small(key, ".zattrs", json.dumps(attributes).encode())


def declared_volume(
    mirror: Mirror, key: str, label: str = ""
) -> tuple[Format, list[DeclaredLevel]] | None:
    """List the levels of the multiscale group at `key` with their full keys, finest first.

    Parameters
    ----------
    mirror
        Mirror of the container.
    key
        Key of a group of labels, or of raw.
    label
        Name of the group of a label in it. Its absence is recorded in the folder of `key`.

    Returns
    -------
    The format of the group and its levels; None if there is no group.
    """
    for stored_as in ZARR_FORMATS:
        name = f"{label}/{ATTRIBUTES_FILES[stored_as]}".lstrip("/")
        content = mirror.read_small(key, name)
        if content is None:
            continue
        file, group = f"{mirror.source}/{key}/{name}", f"{key}/{label}".rstrip("/")
        stored = parse_metadata(content, file, SOURCE_IS_BROKEN)
        levels = declared_levels(parse_attributes(stored, stored_as, file), file)
        levels.sort(key=lambda level: level.voxel_size)
        sizes, stated = [level.voxel_size for level in levels], [x.translation for x in levels]
        return stored_as, [
            DeclaredLevel(f"{group}/{level.path}", level.voxel_size, translation)
            for level, translation in zip(levels, with_common_edges(sizes, stated), strict=True)
        ]
    return None


def read_array(mirror: Mirror, level: DeclaredLevel, stored_as: Format) -> ArrayLevel:
    """Read the metadata of an array.

    Raises
    ------
    InputError
        There is no array, or its metadata are not those of one that can be read.
    """
    file = f"{mirror.source}/{level.path}/{ARRAY_FILES[stored_as]}"
    content = mirror.read_small(level.path, ARRAY_FILES[stored_as])
    if content is None:
        raise InputError(f"{file} does not exist: the source is incomplete")
    try:
        metadata = parse_array(parse_metadata(content, file, SOURCE_IS_BROKEN), stored_as)
        grid = Grid(level.voxel_size, level.translation, shape_of(metadata.shape))
        return ArrayLevel(level.path, grid, metadata)
    except ValueError as error:
        raise InputError(f"{file} does not describe an array that can be read ({error})") from None


def n5_arrays(mirror: Mirror, key: str) -> list[ArrayLevel]:
    """List all levels of the n5 group at `key`, finest first, and fetch their metadata."""
    fetch_metadata(mirror, group_keys(key), GROUP_METADATA["n5"])
    group = read_json(mirror.local / key / "attributes.json")
    try:
        names = level_names(group)
    except ValueError as error:
        raise InputError(
            f"{mirror.source}/{key}/attributes.json is not that of an n5 volume ({error}): take "
            "another source, or report it to who wrote it"
        ) from None
    for name in names or (f"s{n}" for n in range(MAX_LEVELS)):
        mirror.copy_small(key, f"{name}/attributes.json")
        if mirror.read_small(key, f"{name}/attributes.json") is None:
            break
    arrays = []
    for level in stored_n5_grids(mirror.local / key, group):
        if level.grid:
            name = "/".join(level.path.parts[len((mirror.local / key).parts) :])
            declared = DeclaredLevel(f"{key}/{name}", level.voxel_size, level.grid.translation)
            arrays.append(read_array(mirror, declared, "n5"))
    if not arrays:
        raise InputError(f"{mirror.source}/{key} is an n5 group without arrays s0, s1, …")
    return sorted(arrays, key=lambda array: array.voxel_size)


def level_for(levels: Sequence[Level], voxel_size: Vector) -> Level:
    """Return the level, of all levels finest first, that is read at `voxel_size`."""
    return levels[level_to_read([level.voxel_size for level in levels], voxel_size)]
