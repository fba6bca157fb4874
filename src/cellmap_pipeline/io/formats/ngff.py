"""Attributes of zarr volumes: OME-NGFF multiscales, and arrays with `voxel_size`.

Formats: https://ngff.openmicroscopy.org/0.4 (zarr 2), https://ngff.openmicroscopy.org/0.5 (zarr 3),
and the challenge's submissions, whose arrays have `voxel_size` and `translation` attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector, shape_of
from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.io.formats.array import ARRAY_FILES, ATTRIBUTES_FILES, Format
from cellmap_pipeline.io.formats.models import parse_numbers, parse_sides
from cellmap_pipeline.io.storage import Location, Metadata, read_json_files, read_json_if_present

# Each level has half of the voxels of the one before: there are not more in any volume.
MAX_LEVELS = 64
# Units of length by their names in OME-NGFF and n5.
NANOMETERS = {
    "nanometer": 1.0, "nm": 1.0, "picometer": 1e-3, "angstrom": 0.1,
    "micrometer": 1e3, "um": 1e3, "\u00b5m": 1e3, "\u03bcm": 1e3,  # The micro sign, Greek mu.
    "millimeter": 1e6, "mm": 1e6, "meter": 1e9,
}  # fmt: skip


class DeclaredLevel(NamedTuple):
    """A level in a group's metadata: path in the group, voxel size and translation (nm)."""

    path: str
    voxel_size: Vector
    translation: Vector


class StoredLevel(NamedTuple):
    """A level of a volume, at its stated translation; `grid` is None if it is not present."""

    path: Location
    voxel_size: Vector
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
            return [StoredLevel(path, grid.voxel_size, grid)]
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
        multiscale = attributes["multiscales"][0]
        unit = _unit(multiscale["axes"], file)
        shared = multiscale.get("coordinateTransformations", [])
        levels = []
        for dataset in multiscale["datasets"]:
            own = dataset["coordinateTransformations"]
            if not any(step["type"] == "scale" for step in own):
                raise KeyError("scale")
            size, center = combine_steps([*own, *shared])
            path = checked_path(dataset["path"])
            levels.append(DeclaredLevel(path, _vector(size * unit), _vector(center * unit)))
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} is not OME-NGFF 0.4 or 0.5 multiscale metadata "
            f"({type(error).__name__}: {error}): a volume needs `multiscales` with axes z, y, x "
            "and a scale per dataset, or is one array with `voxel_size` and `translation`"
        ) from None
    if not levels:
        raise InputError(f"{file}: `multiscales` lists no datasets")
    return levels


def combine_steps(
    steps: Sequence[Metadata],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Combine `coordinateTransformations`, in the order in which they apply.

    Returns
    -------
    Scale and translation, in the unit of the axes.

    Raises
    ------
    KeyError, TypeError, ValueError
        A step is neither a scale nor a translation of three axes.
    """
    scale, translation = np.ones(3), np.zeros(3)
    for step in steps:
        value = np.array(parse_numbers(step[step["type"]])).reshape(3)
        if step["type"] == "scale":
            scale, translation = scale * value, translation * value
        elif step["type"] == "translation":
            translation = translation + value
        else:
            raise ValueError(f"a {step['type']!r} transformation")
    return scale, translation


def checked_path(path: Any) -> str:
    """Return the path of a level if it lies inside its group.

    Raises
    ------
    ValueError
        It is no path, or leads out of the group.
    """
    if not isinstance(path, str) or "\0" in path:
        raise ValueError(f"the path of a level is {path!r}")
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"the level {path!r} lies outside the volume")
    return path


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
        stored.append(StoredLevel(path / level.path, level.voxel_size, grid or None))
    return stored


def _unit(axes: Sequence[Any], file: str) -> float:
    """Unit of the axes, which must be z, y, x, in nm."""
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    if names != ["z", "y", "x"]:
        raise InputError(
            f"{file}: axes are {names}, but must be ['z', 'y', 'x']: write the volume again with "
            "one channel and its axes in that order"
        )
    units = {axis.get("unit", "nanometer") for axis in axes if isinstance(axis, dict)}
    if len(units) > 1 or not units <= NANOMETERS.keys():
        found = ", ".join(sorted(map(str, units)))
        raise InputError(
            f"{file}: its axes are in {found}, but must all be in one of {', '.join(NANOMETERS)}"
        )
    return NANOMETERS[units.pop()] if units else 1.0


def _vector(values: Iterable[float]) -> Vector:
    z, y, x = (float(value) for value in values)
    return z, y, x


def _array_grid(attributes: Metadata, array: Metadata, file: str) -> Grid:
    try:
        size, position = (parse_numbers(attributes[key]) for key in ("voxel_size", "translation"))
        return Grid(_vector(size), _vector(position), shape_of(parse_sides(array["shape"])))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{file} must hold the array's `voxel_size` and `translation`, nm, z, y, x "
            f"({type(error).__name__}: {error}): add them"
        ) from None
