"""Fetching of the data that a run needs from the challenge's bucket, crop by crop.

The local copy has the layout of the bucket: `{dataset}/{dataset}.zarr/{alignment}/…`, OME-NGFF
multiscales (https://ngff.openmicroscopy.org) in zarr 2 or 3; raw may be in `{dataset}.n5` instead.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from cellmap_pipeline.data.crop_table import split_url
from cellmap_pipeline.data.datasplit import MAX_LABEL_COARSENESS
from cellmap_pipeline.data.fetch_request import FetchRequest, PredictUse, TrainUse
from cellmap_pipeline.data.mirror import Mirror
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector, shape_of
from cellmap_pipeline.io.formats.array import ARRAY_FILES, ATTRIBUTES_FILES, ArrayMetadata, Format
from cellmap_pipeline.io.formats.n5 import stored_n5_grids
from cellmap_pipeline.io.formats.ngff import (
    MAX_LEVELS,
    DeclaredLevel,
    checked_path,
    declared_levels,
)
from cellmap_pipeline.io.formats.registry import parse_array, parse_attributes
from cellmap_pipeline.io.levels import is_as_fine, level_to_read, nearest_level
from cellmap_pipeline.io.pyramids import with_common_edges
from cellmap_pipeline.io.storage import Metadata, read_json

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

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArrayLevel:
    """A level to fetch: the array at `key`, its grid, and its metadata."""

    key: str
    grid: Grid
    metadata: ArrayMetadata

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Voxel size of its grid, nm."""
        return self.grid.voxel_size

    def files(self, start: Sequence[int], stop: Sequence[int]) -> Iterator[tuple[str, str]]:
        """Yield folder and name of the chunks in a box, clipped to the array."""
        if min(self.metadata.chunks) < 1:
            raise InputError(f"{self.key}: its chunks have {list(self.metadata.chunks)} voxels")
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
            yield self.key, self.metadata.chunk_name(index)


@dataclass(frozen=True)
class RawBox:
    """Raw to fetch: the extent of a crop, and the box around it that is read."""

    extent: Grid
    padded: Grid

    @classmethod
    def around(cls, extent: Grid, use: TrainUse | PredictUse) -> RawBox:
        """Return the box that a use of the crop reads, in voxels of the use."""
        grid = extent.at(use.voxel_size)
        return cls(extent, grid.padded(use.margins.around(grid.shape)))


Level = TypeVar("Level", DeclaredLevel, ArrayLevel)


def fetch_crop(crop: int, request: FetchRequest, data_root: Path) -> dict[str, Any]:
    """Fetch the files of a crop that are not in `data_root` yet.

    Parameters
    ----------
    crop
        Number of the crop.
    request
        Location and uses of the crop.
    data_root
        Folder of the datasets.

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
    raw_boxes: list[RawBox] = []
    classes: list[str] = []
    if request.train:
        assert request.labels is not None
        mirror, key = _mirror(request.labels, request.dataset, data_root, mirrors)
        labels, uses = _labels_to_fetch(mirror, key, request.train)
        _fetch_labels(mirror, key, labels, f"crop {crop}: labels")
        classes = list(labels)
        extents = dict.fromkeys(level.grid for levels in labels.values() for level in levels)
        raw_boxes += [RawBox.around(extent, use) for use in uses for extent in extents]
    raw_boxes += [RawBox.around(use.extent, use) for use in request.predict]
    if raw_boxes:
        mirror, key = _mirror(request.raw, request.dataset, data_root, mirrors)
        _fetch_raw(mirror, key, raw_boxes, crop)
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
) -> tuple[dict[str, list[ArrayLevel]], list[TrainUse]]:
    """Find the levels of each label that are read, and the trainings that can use the crop."""
    levels: dict[str, dict[str, ArrayLevel]] = {}
    able: list[TrainUse] = []
    names = [name for stored_as in ZARR_FORMATS for name in GROUP_METADATA[stored_as]]
    exists = any(mirror.read_small(key, name) is not None for name in names)
    for use in uses:
        declared: dict[str, tuple[Format, list[DeclaredLevel]]] = {}
        for label in dict.fromkeys([*use.classes, *use.ground_truth]):
            of_label = _declared(mirror, key, label)
            if of_label is not None:
                exists = True
                declared[label] = of_label
        for label in use.classes:
            if label in declared and not _is_fine_enough(declared[label][1], use):
                del declared[label]
        if declared.keys().isdisjoint(use.classes):
            continue
        able.append(use)
        for label, (stored_as, all_levels) in declared.items():
            for level in _levels_read(all_levels, label, use):
                if level.path not in levels.setdefault(label, {}):
                    levels[label][level.path] = _array(mirror, level, stored_as)
            # The annotation's counts are in the finest level, whichever level is read.
            _fetch_attributes(mirror, all_levels[0].path, stored_as)
    if not exists:
        raise InputError(
            f"{mirror.source}/{key} does not exist: check the crop and its bucket in the crop table"
        )
    return {label: list(of_label.values()) for label, of_label in levels.items()}, able


def _is_fine_enough(declared: Sequence[DeclaredLevel], use: TrainUse) -> bool:
    return is_as_fine(declared[0].voxel_size, use.voxel_size, MAX_LABEL_COARSENESS)


def _levels_read(
    declared: Sequence[DeclaredLevel], label: str, use: TrainUse
) -> Iterator[DeclaredLevel]:
    """Yield the levels of a label that a training and its validation read."""
    # Validation crops are predicted on this level, too, for labels that are composed of parts.
    yield _level_for(declared, use.voxel_size)
    for size in use.ground_truth.get(label, ()):
        yield declared[nearest_level([level.voxel_size for level in declared], size)]


def _fetch_attributes(mirror: Mirror, key: str, stored_as: Format) -> None:
    """Fetch the attributes of an array, but nothing that makes it look present."""
    if stored_as == "zarr":
        mirror.copy_small(key, ".zattrs")
        return
    content = mirror.read_small(key, ATTRIBUTES_FILES[stored_as])
    if content is not None:
        attributes = _parse_json(content, f"{mirror.source}/{key}").get("attributes", {})
        mirror.write_small(key, ".zattrs", json.dumps(attributes).encode())


def _fetch_labels(
    mirror: Mirror, key: str, labels: Mapping[str, Sequence[ArrayLevel]], progress_text: str
) -> None:
    files: list[tuple[str, str]] = []
    for label, levels in labels.items():
        group_metadata = GROUP_METADATA[levels[0].metadata.format]
        _fetch_metadata(mirror, [*_group_keys(key), f"{key}/{label}"], group_metadata)
        for level in levels:
            files += level.files((0, 0, 0), level.grid.shape)
    mirror.copy(files, progress_text)
    for level in (level for levels in labels.values() for level in levels):
        _fetch_metadata(mirror, [level.key], ARRAY_METADATA[level.metadata.format])


def _fetch_raw(mirror: Mirror, key: str, boxes: Sequence[RawBox], crop: int) -> None:
    """Fetch the raw in boxes, each at the level that is read at its voxel size."""
    boxes = list(dict.fromkeys(boxes))
    levels = _raw_arrays(mirror, key, [box.padded.voxel_size for box in boxes])
    files: dict[tuple[str, str], None] = {}
    for level, box in zip(levels, boxes, strict=True):
        if not level.grid.overlaps(box.extent):
            raise InputError(
                f"crop {crop} lies outside {mirror.source}/{level.key}: check its translation"
            )
        # Interpolation reads one voxel more.
        files |= dict.fromkeys(level.files(*level.grid.index_box(box.padded, margin=1)))
    stored_as = levels[0].metadata.format
    _fetch_metadata(mirror, _group_keys(key), GROUP_METADATA[stored_as])
    mirror.copy(files, f"crop {crop}: raw")
    _fetch_metadata(mirror, [level.key for level in levels], ARRAY_METADATA[stored_as])


def _raw_arrays(mirror: Mirror, key: str, voxel_sizes: Sequence[Vector]) -> list[ArrayLevel]:
    """Return the level of raw that is read at each voxel size."""
    if mirror.source.endswith(".n5"):
        if mirror.read_small(key, ATTRIBUTES_FILES["n5"]) is None:
            raise InputError(_no_raw(mirror, key))
        arrays = _n5_arrays(mirror, key)
        return [_level_for(arrays, voxel_size) for voxel_size in voxel_sizes]
    declared = _declared(mirror, key)
    if declared is None:
        raise InputError(_no_raw(mirror, key))
    stored_as, levels = declared
    return [_array(mirror, _level_for(levels, size), stored_as) for size in voxel_sizes]


def _no_raw(mirror: Mirror, key: str) -> str:
    return f"{mirror.source}/{key} does not exist: check em_url and its bucket in the crop table"


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


def _declared(
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
        stored = _parse_json(content, file)
        levels = declared_levels(parse_attributes(stored, stored_as, file), file)
        levels.sort(key=lambda level: level.voxel_size)
        sizes, stated = [level.voxel_size for level in levels], [x.translation for x in levels]
        return stored_as, [
            DeclaredLevel(f"{group}/{level.path}", level.voxel_size, translation)
            for level, translation in zip(levels, with_common_edges(sizes, stated), strict=True)
        ]
    return None


def _array(mirror: Mirror, level: DeclaredLevel, stored_as: Format) -> ArrayLevel:
    file = f"{mirror.source}/{level.path}/{ARRAY_FILES[stored_as]}"
    content = mirror.read_small(level.path, ARRAY_FILES[stored_as])
    if content is None:
        raise InputError(f"{file} does not exist: the source is incomplete")
    try:
        metadata = parse_array(_parse_json(content, file), stored_as)
        grid = Grid(level.voxel_size, level.translation, shape_of(metadata.shape))
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} does not describe an array ({type(error).__name__}: {error})"
        ) from None
    return ArrayLevel(level.path, grid, metadata)


def _parse_json(content: bytes, file: str) -> Metadata:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{file} must hold attributes by name, not {type(value).__name__}")
    return value


def _n5_arrays(mirror: Mirror, key: str) -> list[ArrayLevel]:
    """List all levels of the n5 group at `key`, finest first, and fetch their metadata."""
    _fetch_metadata(mirror, _group_keys(key), GROUP_METADATA["n5"])
    group = read_json(mirror.local / key / "attributes.json")
    multiscales = group.get("multiscales") or [{}]
    try:
        names = [checked_path(entry["path"]) for entry in multiscales[0].get("datasets", [])]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{mirror.source}/{key}/attributes.json: `multiscales` does not list levels inside of "
            f"the volume ({type(error).__name__}: {error})"
        ) from None
    for name in names or (f"s{n}" for n in range(MAX_LEVELS)):
        mirror.copy_small(key, f"{name}/attributes.json")
        if mirror.read_small(key, f"{name}/attributes.json") is None:
            break
    arrays = []
    for level in stored_n5_grids(mirror.local / key, group):
        if level.grid:
            metadata = parse_array(read_json(level.path / "attributes.json"), "n5")
            arrays.append(ArrayLevel(f"{key}/{level.path.name}", level.grid, metadata))
    if not arrays:
        raise InputError(f"{mirror.source}/{key} is an n5 group without arrays s0, s1, …")
    return sorted(arrays, key=lambda array: array.voxel_size)


def _level_for(levels: Sequence[Level], voxel_size: Vector) -> Level:
    """Return the level, of all levels finest first, that is read at `voxel_size`."""
    return levels[level_to_read([level.voxel_size for level in levels], voxel_size)]
