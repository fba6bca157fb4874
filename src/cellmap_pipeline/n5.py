"""Raw in n5: its metadata as those of zarr volumes.

Formats: https://github.com/saalfeldlab/n5, whose arrays are x, y, z; the `transform` of COSEM's
arrays (axes, scale, translate); and n5-viewer's `pixelResolution` and `downsamplingFactors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector
from cellmap_pipeline.ngff import Stored, read_json_if_there
from cellmap_pipeline.stores import Location


def stored_n5_grids(path: Location, group: dict[str, Any]) -> list[Stored]:
    """The arrays of the n5 group, or the n5 array, at `path`, with their grids in z, y, x.

    Parameters
    ----------
    group : its `attributes.json`. The levels are those of its `multiscales`, else `s0`, `s1`, …

    Raises
    ------
    InputError
        The metadata do not say voxel sizes.
    """
    if "dimensions" in group:
        grid = _grid(path, group, {}, {})
        return [Stored(path, grid.voxel_size, grid)]
    multiscale = group["multiscales"][0] if group.get("multiscales") else {}
    entries = {entry["path"]: entry for entry in multiscale.get("datasets", [])}
    levels = []
    for name in entries or _scales(path):
        array = read_json_if_there(path / name / "attributes.json")
        # A local copy need not hold all levels; of those it has not, the entries tell the size.
        if array is not None:
            grid = _grid(path / name, array, entries.get(name, {}), group)
            levels.append(Stored(path / name, grid.voxel_size, grid))
        elif "transform" in entries[name]:
            size, _ = _transformed(entries[name]["transform"])
            levels.append(Stored(path / name, size, None))
    return levels


def array_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """What `.zarray` would say of an n5 array, from its `attributes.json`; z, y, x."""
    return {
        "shape": attributes["dimensions"][::-1],
        "chunks": attributes["blockSize"][::-1],
        "dtype": np.dtype(attributes["dataType"]).str,
    }


def _scales(path: Location) -> list[str]:
    names: list[str] = []
    while read_json_if_there(path / f"s{len(names)}" / "attributes.json") is not None:
        names.append(f"s{len(names)}")
    return names


def _grid(
    path: Location, array: dict[str, Any], entry: dict[str, Any], group: dict[str, Any]
) -> Grid:
    """The grid of an array, from its own attributes before those of its group."""
    try:
        shape = tuple(array["dimensions"][::-1])
        transform = array.get("transform") or entry.get("transform")
        if transform:
            return Grid(*_transformed(transform), shape)
        resolution = array.get("pixelResolution") or group["pixelResolution"]
        finest = resolution["dimensions"] if isinstance(resolution, dict) else resolution
        factors = array.get("downsamplingFactors", [1, 1, 1])
        size = [a * b for a, b in zip(finest, factors, strict=True)]
        # A voxel made of several has its centre in their middle.
        centre = [a * (b - 1) / 2 for a, b in zip(finest, factors, strict=True)]
        return Grid(_vector(size[::-1]), _vector(centre[::-1]), shape)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}/attributes.json does not say where the voxels lie ({type(error).__name__}: "
            f"{error}): an n5 array needs `transform` (axes, scale, translate) or "
            "`pixelResolution`, nm"
        ) from None


def _transformed(transform: dict[str, Any]) -> tuple[Vector, Vector]:
    """Voxel size and translation, z, y, x, of a `transform`."""
    order = [transform["axes"].index(axis) for axis in "zyx"]
    scale, translate = transform["scale"], transform["translate"]
    return _vector([scale[i] for i in order]), _vector([translate[i] for i in order])


def _vector(values: Sequence[float]) -> Vector:
    z, y, x = (float(value) for value in values)
    return z, y, x
