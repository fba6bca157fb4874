"""Import of raw and of labels into the layout of the data folder.

A volume appears under its final name only when it is complete.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cellmap_pipeline.data.importing.labels import Labels
from cellmap_pipeline.data.importing.raw import Limits, Raw
from cellmap_pipeline.data.importing.sources.source import VolumeSource
from cellmap_pipeline.data.importing.write import VolumeKind, write_volume
from cellmap_pipeline.data.layout import label_path, raw_path
from cellmap_pipeline.data.manifest import NAME
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import MAX_VOXEL_NM, MIN_VOXEL_NM, Grid, Vector, is_plausible
from cellmap_pipeline.io.formats import registry
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.run.locking.locks import hold

log = logging.getLogger(__name__)

# Voxel sizes that differ by more than this fraction contradict each other; headers round them.
MAX_SIZE_DIFFERENCE = 0.01
WORK_FOLDER = ".importing"
FULL_DISK = os.strerror(errno.ENOSPC)


def import_raw(
    source: VolumeSource,
    dataset: Path,
    voxel_size: Vector,
    translation: Vector = (0, 0, 0),
    limits: Limits | None = None,
) -> Path:
    """Import the raw of a dataset.

    Parameters
    ----------
    source
        The volume.
    dataset
        Folder of the dataset, `{data_root}/{dataset}`.
    voxel_size, translation
        Voxel size and world position of the center of voxel 0, nm, z, y, x.
    limits
        Intensities that become 0 and 255; None for raw of 8 bits.

    Returns
    -------
    Path of the imported volume.

    Raises
    ------
    InputError
        The dataset has raw already, the voxels are of another type, or the source is broken.
    """
    path = raw_path(dataset.parent, _name(dataset))
    grid = _new_grid(path, source, voxel_size, translation)
    _import(source, Raw(source, limits), grid, dataset, path)
    return path


def import_label(
    source: VolumeSource,
    dataset: Path,
    crop: int,
    label: str,
    voxel_size: Vector,
    translation: Vector = (0, 0, 0),
    unknown: int | None = None,
) -> Path:
    """Import the annotation of a class in a training crop.

    Parameters
    ----------
    source
        The volume, whose voxels are 0 in the background.
    dataset
        Folder of the dataset, `{data_root}/{dataset}`.
    crop
        Number of the crop.
    label
        Name of the class.
    voxel_size, translation
        Voxel size and world position of the center of voxel 0, nm, z, y, x.
    unknown
        Value of voxels that are not annotated, if there are any.

    Returns
    -------
    Path of the imported label.

    Raises
    ------
    InputError
        The crop has the label already or lies outside of the raw, the voxels are no whole numbers,
        or the source is broken.
    """
    if not NAME.fullmatch(label) or crop < 0:
        raise InputError(f"--crop {crop} --label {label}: give a number and a class, such as mito")
    path = label_path(dataset.parent, _name(dataset), crop, label)
    grid = _new_grid(path, source, voxel_size, translation)
    _check_overlap(raw_path(dataset.parent, dataset.name), grid)
    _import(source, Labels(source, label, unknown), grid, dataset, path)
    return path


def _name(dataset: Path) -> str:
    if not NAME.fullmatch(dataset.name):
        raise InputError(
            f"{str(dataset)!r} does not end with the name of a dataset (letters, digits, '_', '-', "
            "'.'): give its folder, {data_root}/{dataset}"
        )
    return dataset.name


def _new_grid(path: Path, source: VolumeSource, voxel_size: Vector, translation: Vector) -> Grid:
    """Return the grid of a volume that is to be written to `path`, where none may be."""
    if path.exists():
        raise InputError(f"{path} exists already: remove it first, or choose another name")
    if not is_plausible(voxel_size):
        raise InputError(
            f"--voxel-size {' '.join(f'{size:g}' for size in voxel_size)} is not in nm: sizes from "
            f"{MIN_VOXEL_NM:g} to {MAX_VOXEL_NM:g} are plausible"
        )
    for axis, given, stated in zip("zyx", voxel_size, source.stated_size, strict=True):
        if stated is not None and abs(stated - given) > MAX_SIZE_DIFFERENCE * given:
            log.warning(
                "warning: --voxel-size says %g nm along %s, but %s says %g nm: is it right? (It is "
                "z, y, x)",
                given, axis, source.name, stated,
            )  # fmt: skip
    try:
        return Grid(voxel_size, translation, source.shape)
    except ValueError as error:
        raise InputError(f"--translation: {error}") from None


def _check_overlap(raw: Path, grid: Grid) -> None:
    if not raw.exists():
        return
    extent = Volume.open(raw).levels[0].grid
    if not extent.overlaps(grid):
        raise InputError(
            f"the crop from {list(grid.lower)} to {list(grid.upper)} nm lies outside of {raw}, "
            f"from {list(extent.lower)} to {list(extent.upper)} nm: correct --translation and "
            "--voxel-size (nm, z, y, x)"
        )


def _import(source: VolumeSource, kind: VolumeKind, grid: Grid, dataset: Path, path: Path) -> None:
    """Write a volume in a folder of its own, and move it to `path` when it is complete."""
    store = dataset / f"{dataset.name}.zarr"
    name = "-".join(path.relative_to(store).parts)
    work, lock = dataset / WORK_FOLDER / name, dataset / WORK_FOLDER / f"{name}.lock"
    try:
        # Two imports of the same volume must not write to the same folder.
        with hold(lock):
            # That of an import that was killed.
            shutil.rmtree(work, ignore_errors=True)
            try:
                with _naming_full_disk(work):
                    # The folder's name is that of the volume in its metadata.
                    write_volume(source, kind, grid, work / path.name)
                _make_groups(store, path.parent)
                if path.exists():
                    raise InputError(f"{path} was made by another import meanwhile: it was kept")
                (work / path.name).rename(path)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        lock.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # Others may be at work there.
            lock.parent.rmdir()


def _make_groups(store: Path, folder: Path) -> None:
    """Make a folder in a zarr container, and groups of all folders above it."""
    folder.mkdir(parents=True, exist_ok=True)
    for group in (store, *(store / part for part in folder.relative_to(store).parents), folder):
        if not (group / ".zgroup").exists():
            registry.WRITERS[registry.OUTPUT_FORMAT].create_group(group)


@contextmanager
def _naming_full_disk(path: Path) -> Iterator[None]:
    """Raise the system's error for a full disk, which tensorstore has only in its message."""
    try:
        yield
    except ValueError as error:
        if FULL_DISK not in str(error):
            raise
        raise OSError(errno.ENOSPC, FULL_DISK, str(path)) from error
