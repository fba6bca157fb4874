"""What a run needs of the challenge's data, brought from its bucket: crop by crop.

Layout of the bucket, kept here as it is: `{dataset}/{dataset}.zarr/{alignment}/…`, OME-NGFF 0.4
multiscales (https://ngff.openmicroscopy.org/0.4) in zarr 2; raw may lie in `{dataset}.n5` instead.
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
from cellmap_pipeline.data.datasplit import COARSEST_FACTOR
from cellmap_pipeline.data.mirror import Mirror
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import TOLERANCE_VOXELS, Grid, union
from cellmap_pipeline.io.n5 import array_metadata, stored_n5_grids
from cellmap_pipeline.io.ngff import Declared, declared_levels, read_json

GROUP_FILES = (".zgroup", ".zattrs")
ARRAY_FILES = (".zattrs", ".zarray")
N5_FILES = ("attributes.json",)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Array:
    """A level that is to be brought: the key of its array, its grid, and how it is cut up."""

    key: str
    grid: Grid
    chunks: tuple[int, ...]
    separator: str
    is_n5: bool = False

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Of its grid, nm."""
        return self.grid.voxel_size

    def files(self, start: Sequence[int], stop: Sequence[int]) -> Iterator[tuple[str, str]]:
        """Folder and name of the chunks under a box, as far as it lies inside the array."""
        axes = []
        for a, b, n, chunk in zip(start, stop, self.grid.shape, self.chunks, strict=True):
            axes.append(range(max(a, 0) // chunk, -(-min(b, n) // chunk)))
        for index in product(*axes):
            # n5's are x, y, z.
            yield self.key, self.separator.join(str(i) for i in index[:: -1 if self.is_n5 else 1])


Level = TypeVar("Level", Declared, Array)


def fetch_crop(
    crop: int, request: Mapping[str, Any], data_root: Path, padding: float
) -> dict[str, Any]:
    """Bring of a crop what is not in `data_root` yet.

    Parameters
    ----------
    request
        What to bring, as `crop_table.crops_to_fetch` says it.
    padding
        Raw around the crop, nm.

    Returns
    -------
    The classes brought, and the numbers of files and bytes, in plain builtins.

    Raises
    ------
    InputError
        The source denies access, does not answer, or does not hold the crop or its raw.
    """
    started = time.monotonic()
    mirrors: dict[str, Mirror] = {}
    # Of raw: at which voxel sizes, and where.
    wanted: list[tuple[Sequence[float], Grid]] = []
    classes: list[str] = []
    if request["train"]:
        mirror, key = _mirror(request["labels"], request["dataset"], data_root, mirrors)
        labels, users = _labels(mirror, key, request["train"])
        _bring_labels(mirror, key, labels, f"crop {crop}: labels")
        classes = list(labels)
        if labels:
            extent = union([level.grid for levels in labels.values() for level in levels])
            wanted += [(voxel_size, extent) for voxel_size in users]
    for use in request["predict"]:
        wanted.append((use["voxel_size"], Grid(**use["extent"])))
    if wanted:
        mirror, key = _mirror(request["raw"], request["dataset"], data_root, mirrors)
        _bring_raw(mirror, key, wanted, padding, crop)
    done: dict[str, Any] = {"crop": crop, "dataset": request["dataset"], "classes": classes}
    for kind in ("files", "bytes", "there", "absent"):
        done[kind] = sum(getattr(mirror.counts, kind) for mirror in mirrors.values())
    log.info(
        "crop %d: brought %d files, %.1f MB, in %.1f s; %d were here, %d are not in the source",
        crop, done["files"], done["bytes"] / 1e6, time.monotonic() - started,
        done["there"], done["absent"],
    )  # fmt: skip
    return done


def _mirror(
    url: str, dataset: str, data_root: Path, mirrors: dict[str, Mirror]
) -> tuple[Mirror, str]:
    """The container that a URL leads into, each opened once, and the key in it."""
    root, key = split_url(url, dataset)
    local = data_root / dataset / root.rpartition("/")[2]
    return mirrors.setdefault(root, Mirror(root, local)), key


def _labels(
    mirror: Mirror, key: str, trainings: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, list[Array]], list[Sequence[float]]]:
    """By class, the levels that trainings read; and the voxel sizes of those that read any."""
    used: dict[str, dict[str, Array]] = {}
    users = []
    found = [mirror.content(key, name) for name in GROUP_FILES]
    for training in trainings:
        voxel_size = training["voxel_size"]
        for label in training["classes"]:
            metadata = mirror.content(key, f"{label}/.zattrs")
            found.append(metadata)
            if metadata is None:
                continue
            declared = _declared(mirror, f"{key}/{label}", metadata)
            if not _as_fine(declared[0], voxel_size, COARSEST_FACTOR):
                continue
            level = _level_for(declared, voxel_size)
            if level.path not in used.setdefault(label, {}):
                used[label][level.path] = _array(mirror, level)
            # What is annotated stands there, whichever level is read.
            mirror.keep(declared[0].path, ".zattrs")
            if voxel_size not in users:
                users.append(voxel_size)
    if not any(content is not None for content in found):
        raise InputError(
            f"{mirror.source}/{key} does not exist: check the crop and its bucket in the crop table"
        )
    return {label: list(levels.values()) for label, levels in used.items()}, users


def _bring_labels(
    mirror: Mirror, key: str, labels: Mapping[str, Sequence[Array]], what: str
) -> None:
    if labels:
        _keep(mirror, _parents(key), GROUP_FILES)
    files: list[tuple[str, str]] = []
    for label, levels in labels.items():
        _keep(mirror, [f"{key}/{label}"], GROUP_FILES)
        for level in levels:
            files += level.files((0, 0, 0), level.grid.shape)
    mirror.bring(files, what)
    _keep(mirror, [level.key for levels in labels.values() for level in levels], ARRAY_FILES)


def _bring_raw(
    mirror: Mirror,
    key: str,
    wanted: Sequence[tuple[Sequence[float], Grid]],
    padding: float,
    crop: int,
) -> None:
    levels = _raw_arrays(mirror, key, [voxel_size for voxel_size, _ in wanted])
    files: dict[tuple[str, str], None] = {}
    for level, (_, extent) in zip(levels, wanted, strict=True):
        if not level.grid.overlaps(extent):
            raise InputError(
                f"crop {crop} lies outside {mirror.source}/{level.key}: check its translation"
            )
        around = extent.padded([math.ceil(padding / v) for v in extent.voxel_size])
        # One voxel more, which interpolation reads.
        files |= dict.fromkeys(level.files(*level.grid.index_box(around, margin=1)))
    is_n5 = levels[0].is_n5
    _keep(mirror, _parents(key), N5_FILES if is_n5 else GROUP_FILES)
    mirror.bring(files, f"crop {crop}: raw")
    _keep(mirror, [level.key for level in levels], N5_FILES if is_n5 else ARRAY_FILES)


def _raw_arrays(mirror: Mirror, key: str, voxel_sizes: Sequence[Sequence[float]]) -> list[Array]:
    """For each voxel size, the level that is read."""
    is_n5 = mirror.source.endswith(".n5")
    metadata = mirror.content(key, "attributes.json" if is_n5 else ".zattrs")
    if metadata is None:
        raise InputError(
            f"{mirror.source}/{key} does not exist: check em_url and its bucket in the crop table"
        )
    if is_n5:
        arrays = _n5_arrays(mirror, key)
        return [_level_for(arrays, voxel_size) for voxel_size in voxel_sizes]
    declared = _declared(mirror, key, metadata)
    return [_array(mirror, _level_for(declared, voxel_size)) for voxel_size in voxel_sizes]


def _parents(key: str) -> list[str]:
    """A key and those of all groups that it lies in, outermost first."""
    parts = key.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts) + 1)]


def _keep(mirror: Mirror, keys: Iterable[str], names: Sequence[str]) -> None:
    """Bring metadata. Those of an array come last: one that has them counts as brought."""
    for key in keys:
        for name in names:
            mirror.keep(key, name)
    mirror.record_absent()


def _declared(mirror: Mirror, key: str, metadata: bytes) -> list[Declared]:
    """The levels of the multiscale group at `key`, by their keys, finest first."""
    file = f"{mirror.source}/{key}/.zattrs"
    try:
        attributes = json.loads(metadata)
    except ValueError as error:
        raise InputError(f"{file} is not JSON ({error})") from None
    levels = declared_levels(attributes, file)
    keyed = [level._replace(path=f"{key}/{level.path}") for level in levels]
    return sorted(keyed, key=lambda level: level.voxel_size)


def _array(mirror: Mirror, level: Declared) -> Array:
    content = mirror.content(level.path, ".zarray")
    if content is None:
        raise InputError(
            f"{mirror.source}/{level.path}/.zarray does not exist: the source lacks it"
        )
    try:
        array = json.loads(content)
        grid = Grid(level.voxel_size, level.translation, array["shape"])
        chunks = tuple(int(n) for n in array["chunks"])
        return Array(level.path, grid, chunks, array.get("dimension_separator", "."))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{mirror.source}/{level.path}/.zarray is not of a zarr 2 array "
            f"({type(error).__name__}: {error})"
        ) from None


def _n5_arrays(mirror: Mirror, key: str) -> list[Array]:
    """All levels of the n5 group at `key`, finest first; their metadata are brought."""
    _keep(mirror, _parents(key), N5_FILES)
    group = read_json(mirror.local / key / "attributes.json")
    multiscales = group.get("multiscales") or [{}]
    names = [entry["path"] for entry in multiscales[0].get("datasets", [])]
    for name in names or (f"s{n}" for n in count()):
        mirror.keep(key, f"{name}/attributes.json")
        if mirror.content(key, f"{name}/attributes.json") is None:
            break
    arrays = []
    for level in stored_n5_grids(mirror.local / key, group):
        if level.grid:
            chunks = array_metadata(read_json(level.path / "attributes.json"))["chunks"]
            arrays.append(Array(f"{key}/{level.path.name}", level.grid, chunks, "/", is_n5=True))
    if not arrays:
        raise InputError(f"{mirror.source}/{key} is an n5 group without arrays s0, s1, …")
    return sorted(arrays, key=lambda array: array.voxel_size)


def _level_for(levels: Sequence[Level], voxel_size: Sequence[float]) -> Level:
    """The coarsest level at least as fine as `voxel_size`, else the finest: what readers take."""
    fine = [level for level in levels if _as_fine(level, voxel_size, 1 + TOLERANCE_VOXELS)]
    return fine[-1] if fine else levels[0]


def _as_fine(level: Declared | Array, voxel_size: Sequence[float], factor: float) -> bool:
    return all(own <= v * factor for own, v in zip(level.voxel_size, voxel_size, strict=True))
