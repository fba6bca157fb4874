"""Metadata of zarr 2 volumes: OME-NGFF 0.4 multiscales, and arrays with `voxel_size`.

Formats: https://ngff.openmicroscopy.org/0.4, and the challenge's submissions, whose arrays have
`voxel_size` and `translation` attributes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector
from cellmap_pipeline.stores import Location, read_text, read_texts


class Stored(NamedTuple):
    """A resolution that a volume's metadata declare; `grid` is None where its array is not here."""

    path: Location
    voxel_size: Vector
    grid: Grid | None


def stored_grids(path: Location, attributes: dict[str, Any]) -> list[Stored]:
    """The arrays of the multiscale group, or the single array, at `path`.

    Raises
    ------
    InputError
        The metadata do not say voxel sizes.
    """
    if "multiscales" not in attributes and read_text(path / ".zarray") is not None:
        grid = _array_grid(path, attributes)
        return [Stored(path, grid.voxel_size, grid)]
    return _multiscale_grids(path, attributes)


def multiscale_metadata(name: str, grids: Sequence[Grid]) -> dict[str, Any]:
    """An entry of OME-NGFF 0.4 `multiscales` for levels `s0`, `s1`, … on `grids`."""
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


def read_json(path: Location) -> dict[str, Any]:
    """What the JSON file at `path` holds.

    Raises
    ------
    InputError
        It is missing or not JSON.
    """
    value = read_json_if_there(path)
    if value is None:
        raise InputError(f"{path} does not exist: the volume is incomplete")
    return value


def read_json_if_there(path: Location) -> dict[str, Any] | None:
    """What the JSON file at `path` holds, or None where there is none.

    Raises
    ------
    InputError
        It is not JSON.
    """
    (value,) = read_jsons(path.parent, [path.name])
    return value


def read_jsons(folder: Location, names: Sequence[str]) -> list[dict[str, Any] | None]:
    """What JSON files of a folder hold, None where there is none; raises as for one."""
    values = []
    for name, text in zip(names, read_texts(folder, names), strict=True):
        try:
            values.append(None if text is None else json.loads(text))
        except json.JSONDecodeError as error:
            raise InputError(f"{folder / name} is not JSON ({error})") from None
    return values


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as JSON."""
    path.write_text(json.dumps(value, indent=1))


def _multiscale_grids(path: Location, attributes: dict[str, Any]) -> list[Stored]:
    try:
        multiscale = attributes["multiscales"][0]
        axes = [axis["name"] if isinstance(axis, dict) else axis for axis in multiscale["axes"]]
        if axes != ["z", "y", "x"]:
            raise InputError(f"{path}/.zattrs: axes are {axes}, but must be ['z', 'y', 'x']")
        levels = []
        datasets = multiscale["datasets"]
        arrays = read_jsons(path, [f"{dataset['path']}/.zarray" for dataset in datasets])
        for dataset, array in zip(datasets, arrays, strict=True):
            # A local copy need not hold all levels.
            shape = (1, 1, 1) if array is None else array["shape"]
            grid = _transformed_grid(dataset["coordinateTransformations"], shape)
            here = None if array is None else grid
            levels.append(Stored(path / dataset["path"], grid.voxel_size, here))
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}/.zattrs is not OME-NGFF 0.4 multiscale metadata "
            f"({type(error).__name__}: {error}): a volume needs `multiscales` with axes z, y, x "
            "and a scale per dataset, or is one array with `voxel_size` and `translation`"
        ) from None
    if not levels:
        raise InputError(f"{path}/.zattrs: `multiscales` lists no datasets")
    return levels


def _transformed_grid(transformations: list[dict[str, Any]], shape: Sequence[int]) -> Grid:
    scale: Sequence[float] | None = None
    translation: Sequence[float] = (0.0, 0.0, 0.0)
    for transformation in transformations:
        if transformation["type"] == "scale":
            scale = transformation["scale"]
        elif transformation["type"] == "translation":
            translation = transformation["translation"]
    if scale is None:
        raise KeyError("scale")
    return Grid(tuple(scale), tuple(translation), tuple(shape))  # type: ignore[arg-type]


def _array_grid(path: Location, attributes: dict[str, Any]) -> Grid:
    shape = read_json(path / ".zarray")["shape"]
    try:
        return Grid(attributes["voxel_size"], attributes["translation"], shape)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}/.zattrs must hold `voxel_size` and `translation`, nm, z, y, x "
            f"({type(error).__name__}: {error})"
        ) from None
