"""Fetching of the data that a run needs from the challenge's bucket, crop by crop.

The local copy has the layout of the bucket: `{dataset}/{dataset}.zarr/{alignment}/…`, OME-NGFF
multiscales (https://ngff.openmicroscopy.org) in zarr 2 or 3; raw may be in `{dataset}.n5` instead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cellmap_pipeline.data.crop_table import split_url
from cellmap_pipeline.data.datasplit import MAX_LABEL_COARSENESS
from cellmap_pipeline.data.fetching.bounds import (
    check_label_extents,
    check_raw_extents,
    check_total,
)
from cellmap_pipeline.data.fetching.levels import (
    ARRAY_METADATA,
    GROUP_METADATA,
    ZARR_FORMATS,
    ArrayLevel,
    declared_volume,
    fetch_attributes,
    fetch_metadata,
    group_keys,
    level_for,
    n5_arrays,
    read_array,
)
from cellmap_pipeline.data.fetching.mirror import Mirror, RemoteFile
from cellmap_pipeline.data.fetching.request import FetchRequest, PredictUse, TeacherUse, TrainUse
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector, common_extent
from cellmap_pipeline.io.formats.array import ATTRIBUTES_FILES, Format
from cellmap_pipeline.io.formats.ngff import DeclaredLevel
from cellmap_pipeline.io.levels import is_as_fine, nearest_level

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawBox:
    """Raw to fetch: the extent of a crop, and the box around it that is read."""

    extent: Grid
    padded: Grid

    @classmethod
    def around(cls, extent: Grid, use: TrainUse | TeacherUse | PredictUse) -> RawBox:
        """Return the box that a use of the crop reads, in voxels of the use."""
        grid = extent.at(use.voxel_size)
        return cls(extent, grid.padded(use.margins.around(grid.shape)))


class Part(NamedTuple):
    """The files to fetch from one container: metadata of groups and levels, and chunks."""

    mirror: Mirror
    groups: Sequence[tuple[str, Format]]
    levels: Sequence[ArrayLevel]
    files: Sequence[RemoteFile]
    progress_text: str

    @property
    def decoded_bytes(self) -> int:
        """Size of the chunks, decoded."""
        sizes = {level.key: level.file_voxel_bytes for level in self.levels}
        return sum(sizes[file.folder] for file in self.files)

    def fetch(self) -> None:
        """Fetch the chunks that are not present, then the metadata, which mark them as complete."""
        for group, stored_as in self.groups:
            fetch_metadata(self.mirror, [group], GROUP_METADATA[stored_as])
        self.mirror.copy(self.files, self.progress_text)
        for level in self.levels:
            fetch_metadata(self.mirror, [level.key], ARRAY_METADATA[level.metadata.format])


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
        The source denies access, does not answer, lacks the crop or its raw, or its metadata say
        sizes that cannot be. The latter is found before any chunk is requested.
    """
    started = time.monotonic()
    mirrors: dict[str, Mirror] = {}
    raw_boxes: list[RawBox] = []
    classes: list[str] = []
    parts: list[Part] = []
    if request.train:
        assert request.labels is not None
        mirror, key = _mirror(request.labels, request.dataset, data_root, mirrors)
        labels, uses = _labels_to_fetch(mirror, key, request.train)
        classes = list(labels)
        if labels:
            parts.append(_label_part(mirror, key, labels, crop))
        grids = [level.grid for part in parts for level in part.levels]
        # A training reads raw around all labels of a crop, its prediction around some of them.
        finest = [
            min((level.grid for level in levels), key=lambda grid: grid.voxel_size)
            for levels in labels.values()
        ]
        extents = dict.fromkeys([common_extent(finest), *grids] if finest else ())
        teachers = [use.teacher for use in uses if use.teacher]
        readers: list[TrainUse | TeacherUse] = [*uses, *teachers]
        raw_boxes += [RawBox.around(extent, use) for use in readers for extent in extents]
    raw_boxes += [RawBox.around(use.extent, use) for use in request.predict]
    if raw_boxes:
        mirror, key = _mirror(request.raw, request.dataset, data_root, mirrors)
        parts.append(_raw_part(mirror, key, raw_boxes, crop))
    check_total(sum(part.decoded_bytes for part in parts), crop)
    for part in parts:
        part.fetch()
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
            of_label = declared_volume(mirror, key, label)
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
                    levels[label][level.path] = read_array(mirror, level, stored_as)
            # The annotation's counts are in the finest level, whichever level is read.
            fetch_attributes(mirror, all_levels[0].path, stored_as)
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
    yield level_for(declared, use.voxel_size)
    for size in use.ground_truth.get(label, ()):
        yield declared[nearest_level([level.voxel_size for level in declared], size)]


def _label_part(
    mirror: Mirror, key: str, labels: Mapping[str, Sequence[ArrayLevel]], crop: int
) -> Part:
    groups: list[tuple[str, Format]] = []
    for label, of_label in labels.items():
        stored_as = of_label[0].metadata.format
        groups += [(group, stored_as) for group in (*group_keys(key), f"{key}/{label}")]
    levels = [level for of_label in labels.values() for level in of_label]
    check_label_extents(levels)
    files = [file for level in levels for file in level.files((0, 0, 0), level.grid.shape)]
    return Part(mirror, groups, levels, files, f"crop {crop}: labels")


def _raw_part(mirror: Mirror, key: str, boxes: Sequence[RawBox], crop: int) -> Part:
    """Return the raw in boxes, each at the level that is read at its voxel size."""
    boxes = list(dict.fromkeys(boxes))
    levels = _raw_arrays(mirror, key, [box.padded.voxel_size for box in boxes])
    files: dict[RemoteFile, None] = {}
    for level, box in zip(levels, boxes, strict=True):
        check_raw_extents(level, [box.extent], crop)
        # Interpolation reads one voxel more.
        files |= dict.fromkeys(level.files(*level.grid.index_box(box.padded, margin=1)))
    groups = [(group, levels[0].metadata.format) for group in group_keys(key)]
    return Part(mirror, groups, levels, list(files), f"crop {crop}: raw")


def _raw_arrays(mirror: Mirror, key: str, voxel_sizes: Sequence[Vector]) -> list[ArrayLevel]:
    """Return the level of raw that is read at each voxel size."""
    if mirror.source.endswith(".n5"):
        if mirror.read_small(key, ATTRIBUTES_FILES["n5"]) is None:
            raise InputError(_no_raw(mirror, key))
        arrays = n5_arrays(mirror, key)
        return [level_for(arrays, voxel_size) for voxel_size in voxel_sizes]
    declared = declared_volume(mirror, key)
    if declared is None:
        raise InputError(_no_raw(mirror, key))
    stored_as, levels = declared
    return [read_array(mirror, level_for(levels, size), stored_as) for size in voxel_sizes]


def _no_raw(mirror: Mirror, key: str) -> str:
    return f"{mirror.source}/{key} does not exist: check em_url and its bucket in the crop table"
