"""Metadata of zarr 2 volumes: OME-NGFF 0.4 multiscales, and arrays with `voxel_size`.

Formats: https://ngff.openmicroscopy.org/0.4, and the challenge's submissions, whose arrays have
`voxel_size` and `translation` attributes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid


def stored_grids(path: Path, attributes: dict[str, Any]) -> list[tuple[Path, Grid]]:
    """Path and grid of each array of the multiscale group, or single array, at `path`.

    Raises
    ------
    InputError
        The metadata do not say voxel sizes, or an array is missing.
    """
    if (path / ".zarray").is_file():
        return [(path, _array_grid(path, attributes))]
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


def read_json(path: Path) -> dict[str, Any]:
    """What the JSON file at `path` holds.

    Raises
    ------
    InputError
        It is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: the volume is incomplete") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error})") from None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as JSON."""
    path.write_text(json.dumps(value, indent=1))


def _multiscale_grids(path: Path, attributes: dict[str, Any]) -> list[tuple[Path, Grid]]:
    try:
        multiscale = attributes["multiscales"][0]
        axes = [axis["name"] if isinstance(axis, dict) else axis for axis in multiscale["axes"]]
        if axes != ["z", "y", "x"]:
            raise InputError(f"{path}/.zattrs: axes are {axes}, but must be ['z', 'y', 'x']")
        levels = []
        for dataset in multiscale["datasets"]:
            shape = read_json(path / dataset["path"] / ".zarray")["shape"]
            grid = _transformed_grid(dataset["coordinateTransformations"], shape)
            levels.append((path / dataset["path"], grid))
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


def _array_grid(path: Path, attributes: dict[str, Any]) -> Grid:
    shape = read_json(path / ".zarray")["shape"]
    try:
        return Grid(attributes["voxel_size"], attributes["translation"], shape)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}/.zattrs must hold `voxel_size` and `translation`, nm, z, y, x "
            f"({type(error).__name__}: {error})"
        ) from None
