"""Fetching of the data that a run needs from the challenge's bucket, crop by crop.

The local copy has the layout of the bucket: `{dataset}/{dataset}.zarr/{alignment}/…`, OME-NGFF 0.4
multiscales (https://ngff.openmicroscopy.org/0.4) in zarr 2; raw may be in `{dataset}.n5` instead.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any, TypeVar

from cellmap_pipeline.data.crop_table import split_url
from cellmap_pipeline.data.datasplit import MAX_LABEL_COARSENESS
from cellmap_pipeline.data.fetch_request import FetchRequest, TrainUse
from cellmap_pipeline.data.mirror import Mirror
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector, union
from cellmap_pipeline.io.formats.n5 import array_metadata, stored_n5_grids
from cellmap_pipeline.io.formats.ngff import DeclaredLevel, declared_levels, read_json
from cellmap_pipeline.io.levels import is_as_fine, level_to_read

GROUP_FILES = (".zgroup", ".zattrs")
ARRAY_FILES = (".zattrs", ".zarray")
N5_FILES = ("attributes.json",)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArrayLevel:
    """A level to fetch: the array at `key`, its grid, and its chunks."""

    key: str
    grid: Grid
    chunks: tuple[int, ...]
    separator: str
    is_n5: bool = False

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Voxel size of its grid, nm."""
        return self.grid.voxel_size

    def files(self, start: Sequence[int], stop: Sequence[int]) -> Iterator[tuple[str, str]]:
        """Yield folder and name of the chunks in a box, clipped to the array."""
        axes = []
        for a, b, n, chunk in zip(start, stop, self.grid.shape, self.chunks, strict=True):
            axes.append(range(max(a, 0) // chunk, -(-min(b, n) // chunk)))
        for index in product(*axes):
            # Axes of n5 are x, y, z.
            yield self.key, self.separator.join(str(i) for i in index[:: -1 if self.is_n5 else 1])


Level = TypeVar("Level", DeclaredLevel, ArrayLevel)


def fetch_crop(crop: int, request: FetchRequest, data_root: Path, padding: float) -> dict[str, Any]:
    """Fetch the files of a crop that are not in `data_root` yet.

    Parameters
    ----------
    crop
        Number of the crop.
    request
        Location and uses of the crop.
    data_root
        Folder of the datasets.
    padding
        Width of the raw to fetch around the crop, nm.

    Returns
    -------
    The fetched classes and the numbers of files and bytes, as a JSON-serializable dict.

    Raises
    ------
    InputError
        The source denies access, does not answer, or lacks the crop or its raw.
    """
    started = time.monotonic()
    mirrors: dict[str, Mirror] = {}
    raw_boxes: list[tuple[Vector, Grid]] = []
    classes: list[str] = []
    if request.train:
        assert request.labels is not None
        mirror, key = _mirror(request.labels, request.dataset, data_root, mirrors)
        labels, voxel_sizes = _labels_to_fetch(mirror, key, request.train)
        _fetch_labels(mirror, key, labels, f"crop {crop}: labels")
        classes = list(labels)
        if labels:
            extent = union([level.grid for levels in labels.values() for level in levels])
            raw_boxes += [(voxel_size, extent) for voxel_size in voxel_sizes]
    raw_boxes += [(use.voxel_size, use.extent) for use in request.predict]
    if raw_boxes:
        mirror, key = _mirror(request.raw, request.dataset, data_root, mirrors)
        _fetch_raw(mirror, key, raw_boxes, padding, crop)
    counts = [mirror.counts for mirror in mirrors.values()]
    done: dict[str, Any] = {
        "crop": crop,
        "dataset": request.dataset,
        "classes": classes,
        "files": sum(part.files for part in counts),
        "bytes": sum(part.bytes for part in counts),
        "there": sum(part.present for part in counts),
        "absent": sum(part.absent for part in counts),
    }
    log.info(
        "crop %d: fetched %d files, %.1f MB, in %.1f s; %d were present already, %d do not exist "
        "in the source",
        crop, done["files"], done["bytes"] / 1e6, time.monotonic() - started,
        done["there"], done["absent"],
    )  # fmt: skip
    return done


def _mirror(
    url: str, dataset: str, data_root: Path, mirrors: dict[str, Mirror]
) -> tuple[Mirror, str]:
    """Return the mirror of the container that a URL points into, opened once, and the key in it."""
    root, key = split_url(url, dataset)
    local = data_root / dataset / root.rpartition("/")[2]
    return mirrors.setdefault(root, Mirror(root, local)), key


def _labels_to_fetch(
    mirror: Mirror, key: str, uses: Sequence[TrainUse]
) -> tuple[dict[str, list[ArrayLevel]], list[Vector]]:
    """Find the levels of each class that trainings read, and the voxel sizes of these trainings."""
    used: dict[str, dict[str, ArrayLevel]] = {}
    voxel_sizes: list[Vector] = []
    found = [mirror.read_small(key, name) for name in GROUP_FILES]
    for use in uses:
        for label in use.classes:
            metadata = mirror.read_small(key, f"{label}/.zattrs")
            found.append(metadata)
            if metadata is None:
                continue
            declared = _declared(mirror, f"{key}/{label}", metadata)
            if not is_as_fine(declared[0].voxel_size, use.voxel_size, MAX_LABEL_COARSENESS):
                continue
            level = _level_for(declared, use.voxel_size)
            if level.path not in used.setdefault(label, {}):
                used[label][level.path] = _array(mirror, level)
            # The annotation's counts are in the finest level, whichever level is read.
            mirror.copy_small(declared[0].path, ".zattrs")
            if use.voxel_size not in voxel_sizes:
                voxel_sizes.append(use.voxel_size)
    if not any(content is not None for content in found):
        raise InputError(
            f"{mirror.source}/{key} does not exist: check the crop and its bucket in the crop table"
        )
    return {label: list(levels.values()) for label, levels in used.items()}, voxel_sizes


def _fetch_labels(
    mirror: Mirror, key: str, labels: Mapping[str, Sequence[ArrayLevel]], progress_text: str
) -> None:
    if labels:
        _fetch_metadata(mirror, _group_keys(key), GROUP_FILES)
    files: list[tuple[str, str]] = []
    for label, levels in labels.items():
        _fetch_metadata(mirror, [f"{key}/{label}"], GROUP_FILES)
        for level in levels:
            files += level.files((0, 0, 0), level.grid.shape)
    mirror.copy(files, progress_text)
    arrays = [level.key for levels in labels.values() for level in levels]
    _fetch_metadata(mirror, arrays, ARRAY_FILES)


def _fetch_raw(
    mirror: Mirror, key: str, boxes: Sequence[tuple[Vector, Grid]], padding: float, crop: int
) -> None:
    """Fetch the raw in boxes, each at a voxel size, and `padding` (nm) around them."""
    levels = _raw_arrays(mirror, key, [voxel_size for voxel_size, _ in boxes])
    files: dict[tuple[str, str], None] = {}
    for level, (_, extent) in zip(levels, boxes, strict=True):
        if not level.grid.overlaps(extent):
            raise InputError(
                f"crop {crop} lies outside {mirror.source}/{level.key}: check its translation"
            )
        padded = extent.padded([math.ceil(padding / v) for v in extent.voxel_size])
        # Interpolation reads one voxel more.
        files |= dict.fromkeys(level.files(*level.grid.index_box(padded, margin=1)))
    is_n5 = levels[0].is_n5
    _fetch_metadata(mirror, _group_keys(key), N5_FILES if is_n5 else GROUP_FILES)
    mirror.copy(files, f"crop {crop}: raw")
    _fetch_metadata(mirror, [level.key for level in levels], N5_FILES if is_n5 else ARRAY_FILES)


def _raw_arrays(mirror: Mirror, key: str, voxel_sizes: Sequence[Vector]) -> list[ArrayLevel]:
    """Return the level of raw that is read at each voxel size."""
    is_n5 = mirror.source.endswith(".n5")
    metadata = mirror.read_small(key, "attributes.json" if is_n5 else ".zattrs")
    if metadata is None:
        raise InputError(
            f"{mirror.source}/{key} does not exist: check em_url and its bucket in the crop table"
        )
    if is_n5:
        arrays = _n5_arrays(mirror, key)
        return [_level_for(arrays, voxel_size) for voxel_size in voxel_sizes]
    declared = _declared(mirror, key, metadata)
    return [_array(mirror, _level_for(declared, voxel_size)) for voxel_size in voxel_sizes]


def _group_keys(key: str) -> list[str]:
    """List a key and the keys of all groups that contain it, outermost first."""
    parts = key.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts) + 1)]


def _fetch_metadata(mirror: Mirror, keys: Iterable[str], names: Sequence[str]) -> None:
    """Fetch metadata files. Those of arrays are fetched last: they mark an array as complete."""
    for key in keys:
        for name in names:
            mirror.copy_small(key, name)
    mirror.record_absent()


def _declared(mirror: Mirror, key: str, metadata: bytes) -> list[DeclaredLevel]:
    """List the levels of the multiscale group at `key` with their full keys, finest first."""
    file = f"{mirror.source}/{key}/.zattrs"
    try:
        attributes = json.loads(metadata)
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error})") from None
    levels = declared_levels(attributes, file)
    keyed = [level._replace(path=f"{key}/{level.path}") for level in levels]
    return sorted(keyed, key=lambda level: level.voxel_size)


def _array(mirror: Mirror, level: DeclaredLevel) -> ArrayLevel:
    content = mirror.read_small(level.path, ".zarray")
    if content is None:
        raise InputError(
            f"{mirror.source}/{level.path}/.zarray does not exist: the source is incomplete"
        )
    try:
        array = json.loads(content)
        grid = Grid(level.voxel_size, level.translation, array["shape"])
        chunks = tuple(int(n) for n in array["chunks"])
        return ArrayLevel(level.path, grid, chunks, array.get("dimension_separator", "."))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{mirror.source}/{level.path}/.zarray does not describe a zarr 2 array "
            f"({type(error).__name__}: {error})"
        ) from None


def _n5_arrays(mirror: Mirror, key: str) -> list[ArrayLevel]:
    """List all levels of the n5 group at `key`, finest first, and fetch their metadata."""
    _fetch_metadata(mirror, _group_keys(key), N5_FILES)
    group = read_json(mirror.local / key / "attributes.json")
    multiscales = group.get("multiscales") or [{}]
    names = [entry["path"] for entry in multiscales[0].get("datasets", [])]
    for name in names or (f"s{n}" for n in count()):
        mirror.copy_small(key, f"{name}/attributes.json")
        if mirror.read_small(key, f"{name}/attributes.json") is None:
            break
    arrays = []
    for level in stored_n5_grids(mirror.local / key, group):
        if level.grid:
            chunks = array_metadata(read_json(level.path / "attributes.json"))["chunks"]
            arrays.append(
                ArrayLevel(f"{key}/{level.path.name}", level.grid, chunks, "/", is_n5=True)
            )
    if not arrays:
        raise InputError(f"{mirror.source}/{key} is an n5 group without arrays s0, s1, …")
    return sorted(arrays, key=lambda array: array.voxel_size)


def _level_for(levels: Sequence[Level], voxel_size: Vector) -> Level:
    """Return the level, of all levels finest first, that is read at `voxel_size`."""
    return levels[level_to_read([level.voxel_size for level in levels], voxel_size)]
