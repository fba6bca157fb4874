"""Attributes of zarr volumes: OME-NGFF multiscales, and arrays with `voxel_size`.

Formats: https://ngff.openmicroscopy.org/0.4 (zarr 2), https://ngff.openmicroscopy.org/0.5 (zarr 3),
and the challenge's submissions, whose arrays have `voxel_size` and `translation` attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector, shape_of
from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.io.formats.array import ARRAY_FILES, ATTRIBUTES_FILES, Format
from cellmap_pipeline.io.formats.group_models import (
    NANOMETERS,
    ArrayPosition,
    Axis,
    NgffGroup,
    combine_steps,
)
from cellmap_pipeline.io.formats.models import parse_model, parse_sides
from cellmap_pipeline.io.storage import Location, Metadata, read_json_files, read_json_if_present


class DeclaredLevel(NamedTuple):
    """A level in a group's metadata: path in the group, voxel size and translation (nm)."""

    path: str
    voxel_size: Vector
    translation: Vector


class StoredLevel(NamedTuple):
    """A level of a volume: voxel size and stated translation (nm), and grid, if it is present."""

    path: Location
    voxel_size: Vector
    translation: Vector
    grid: Grid | None


def stored_grids(path: Location, attributes: Metadata, stored_as: Format) -> list[StoredLevel]:
    """List the arrays of the multiscale group, or the single array, at `path`.

    Parameters
    ----------
    path
        The group or array.
    attributes
        Its attributes.
    stored_as
        Format of its arrays, zarr 2 or zarr 3.

    Raises
    ------
    InputError
        The metadata do not define voxel sizes.
    """
    if "multiscales" not in attributes:
        array = read_json_if_present(path / ARRAY_FILES[stored_as])
        if array is not None and "shape" in array:
            grid = _array_grid(attributes, array, f"{path}/{ATTRIBUTES_FILES[stored_as]}")
            return [StoredLevel(path, grid.voxel_size, grid.translation, grid)]
    return _multiscale_grids(path, attributes, stored_as)


def multiscale_metadata(name: str, grids: Sequence[Grid]) -> Metadata:
    """Make an entry of OME-NGFF 0.4 `multiscales` for levels `s0`, `s1`, … on `grids`."""
    datasets = [
        {
            "path": f"s{i}",
            "coordinateTransformations": [
                {"type": "scale", "scale": list(grid.voxel_size)},
                {"type": "translation", "translation": list(grid.translation)},
            ],
        }
        for i, grid in enumerate(grids)
    ]
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    return {"version": "0.4", "name": name, "axes": axes, "datasets": datasets}


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Write a metadata file of a zarr group or array, without a final newline as zarr does."""
    write_json(path, metadata, end="")


def declared_levels(attributes: Metadata, file: str) -> list[DeclaredLevel]:
    """Parse the levels in the attributes of a multiscale group, in their order.

    Parameters
    ----------
    attributes
        Attributes of the group.
    file
        Name of the file that holds them, for errors.

    Raises
    ------
    InputError
        The attributes are not OME-NGFF 0.4 or 0.5, or their axes are not z, y, x in a unit of
        length.
    """
    try:
        multiscale = parse_model(NgffGroup, attributes).multiscales[0]
    except ValueError as error:
        raise InputError(
            f"{file} is not OME-NGFF 0.4 or 0.5 multiscale metadata ({error}): a volume needs "
            "`multiscales` with axes z, y, x and a scale per dataset, or is one array with "
            "`voxel_size` and `translation`"
        ) from None
    unit = _unit(multiscale.axes, file)
    levels = []
    for dataset in multiscale.datasets:
        size, center = combine_steps(
            [*dataset.coordinateTransformations, *multiscale.coordinateTransformations]
        )
        levels.append(DeclaredLevel(dataset.path, _in_nm(size, unit), _in_nm(center, unit)))
    if not levels:
        raise InputError(f"{file}: `multiscales` lists no datasets")
    return levels


def _multiscale_grids(path: Location, attributes: Metadata, stored_as: Format) -> list[StoredLevel]:
    levels = declared_levels(attributes, f"{path}/{ATTRIBUTES_FILES[stored_as]}")
    stored = []
    # A local copy may lack levels.
    arrays = read_json_files(path, [f"{level.path}/{ARRAY_FILES[stored_as]}" for level in levels])
    for level, array in zip(levels, arrays, strict=True):
        try:
            grid = array and Grid(
                level.voxel_size, level.translation, shape_of(parse_sides(array["shape"]))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}/{level.path}: its voxel size, translation and shape are not a grid "
                f"({type(error).__name__}: {error}): check its "
                f"{ARRAY_FILES[stored_as]} and {path}/{ATTRIBUTES_FILES[stored_as]}"
            ) from None
        place = path / level.path
        stored.append(StoredLevel(place, level.voxel_size, level.translation, grid or None))
    return stored


def _unit(axes: Sequence[Axis | str], file: str) -> float:
    """Unit of the axes, which must be z, y, x, in nm."""
    names = [axis if isinstance(axis, str) else axis.name for axis in axes]
    if names != ["z", "y", "x"]:
        raise InputError(
            f"{file}: axes are {names}, but must be ['z', 'y', 'x']: write the volume again with "
            "one channel and its axes in that order"
        )
    units = {axis.unit for axis in axes if isinstance(axis, Axis)}
    if len(units) > 1 or not units <= NANOMETERS.keys():
        found = ", ".join(sorted(units))
        raise InputError(
            f"{file}: its axes are in {found}, but must all be in one of {', '.join(NANOMETERS)}"
        )
    return NANOMETERS[units.pop()] if units else 1.0


def _in_nm(values: Iterable[float], unit: float) -> Vector:
    z, y, x = (value * unit for value in values)
    return z, y, x


def _array_grid(attributes: Metadata, array: Metadata, file: str) -> Grid:
    try:
        position = parse_model(ArrayPosition, attributes)
        shape = shape_of(parse_sides(array["shape"]))
        return Grid(_in_nm(position.voxel_size, 1.0), _in_nm(position.translation, 1.0), shape)
    except ValueError as error:
        raise InputError(
            f"{file} must hold the array's `voxel_size` and `translation`, nm, z, y, x "
            f"({error}): correct them"
        ) from None
