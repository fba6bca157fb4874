"""Metadata of n5 volumes.

Formats: https://github.com/saalfeldlab/n5, whose arrays are x, y, z; the `transform` of COSEM's
arrays (axes, scale, translate, units); and n5-viewer's `pixelResolution`, `downsamplingFactors`
and `scales` (https://github.com/saalfeldlab/n5-viewer).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector, shape_of
from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.formats.models import N5Array, parse_model, parse_numbers, parse_sides
from cellmap_pipeline.io.formats.ngff import (
    MAX_LEVELS,
    NANOMETERS,
    StoredLevel,
    checked_path,
    combine_steps,
)
from cellmap_pipeline.io.storage import Location, Metadata, read_json_if_present


def stored_n5_grids(path: Location, group: Metadata) -> list[StoredLevel]:
    """List the arrays of the n5 group, or the n5 array, at `path`, with their grids in z, y, x.

    Parameters
    ----------
    path
        The group or array.
    group
        Its `attributes.json`. The levels are those of its `multiscales`; otherwise one per entry
        of its `scales`; otherwise all of `s0`, `s1`, … that exist.

    Raises
    ------
    InputError
        The metadata do not define voxel sizes.
    """
    arrays = {path: group}
    transforms: dict[Location, Any] = {}
    try:
        if "dimensions" not in group:
            transforms = {path / name: entry for name, entry in _transforms(group).items()}
            levels = list(transforms) or _scales(path, len(group.get("scales", [])))
            # A local copy may lack levels, whose voxel sizes are then known from the group.
            arrays = {
                level: read_json_if_present(level / "attributes.json") or {} for level in levels
            }
        stored = []
        for number, (level, array) in enumerate(arrays.items()):
            transform = array.get("transform") or transforms.get(level)
            size, center = (
                _parse_transform(transform) if transform else _parse_scale(array, group, number)
            )
            shape = shape_of(parse_sides(array["dimensions"])[::-1]) if array else None
            stored.append(StoredLevel(level, size, Grid(size, center, shape) if shape else None))
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}/attributes.json does not say where the voxels lie, nor do those of its levels "
            f"({type(error).__name__}: {error}): an n5 array needs `transform` (axes, scale, "
            "translate) or `pixelResolution`, and `downsamplingFactors` where it is not the finest"
        ) from None
    if not stored:
        raise InputError(
            f"{path} holds no level: an n5 volume is an array, or a group of s0, s1, …"
        )
    return stored


def parse_n5_array(attributes: Metadata) -> ArrayMetadata:
    """Parse the `attributes.json` of an n5 array.

    Raises
    ------
    ValueError
        The attributes are not those of an array.
    """
    content = parse_model(N5Array, attributes)
    chunks = tuple(content.blockSize[::-1])
    return ArrayMetadata(
        format="n5",
        shape=tuple(content.dimensions[::-1]),
        chunks=chunks,
        decoded_chunks=chunks,
        dtype=np.dtype(content.dataType),
        stored=attributes,
        separator="/",
    )


def _transforms(group: Metadata) -> Metadata:
    """The `transform` of each level of `multiscales` by its path, also if given as in NGFF."""
    transforms = {}
    for multiscale in group.get("multiscales", [])[:1]:
        for level in multiscale["datasets"]:
            transforms[checked_path(level["path"])] = level.get("transform")
            if "coordinateTransformations" in level:
                shared = multiscale.get("coordinateTransformations", [])
                scale, translation = combine_steps([*level["coordinateTransformations"], *shared])
                transforms[level["path"]] = {
                    # The names give the order.
                    "axes": [axis["name"] for axis in multiscale["axes"]],
                    "units": [axis.get("unit", "nm") for axis in multiscale["axes"]],
                    "scale": scale.tolist(),
                    "translate": translation.tolist(),
                }
    return transforms


def _scales(path: Location, number: int) -> list[Location]:
    while (
        number < MAX_LEVELS
        and read_json_if_present(path / f"s{number}" / "attributes.json") is not None
    ):
        number += 1
    return [path / f"s{i}" for i in range(number)]


def _parse_scale(array: Metadata, group: Metadata, number: int) -> tuple[Vector, Vector]:
    """Voxel size and translation of level `number` from its `pixelResolution`."""
    own, shared = array.get("pixelResolution"), group.get("pixelResolution")
    factors = array.get("downsamplingFactors")
    if own and not factors:
        size = _resolution(own)
        finest = size if number == 0 else _resolution(shared)
    else:
        finest = _resolution(own or shared)
        factors = factors or group.get("scales", [[1, 1, 1]])[number]
        size = finest * np.array(parse_numbers(factors)).reshape(3)
    # The center of a downsampled voxel is the mean of the centers that it covers.
    return _vector(size[::-1]), _vector((size - finest)[::-1] / 2)


def _resolution(stated: Any) -> NDArray[np.float64]:
    """Parse a `pixelResolution`: nm, x, y, z."""
    if isinstance(stated, dict):
        unit = NANOMETERS[stated.get("unit", "nm")]
        return np.array(parse_numbers(stated["dimensions"])) * unit
    return np.array(parse_numbers(stated)).reshape(3)


def _parse_transform(transform: Metadata) -> tuple[Vector, Vector]:
    """Voxel size and translation, z, y, x, of a `transform`."""
    order = [transform["axes"].index(axis) for axis in "zyx"]
    units = transform.get("units") or ["nm"] * 3
    scale, translate = (
        [stated[i] * NANOMETERS[units[i]] for i in order]
        for stated in (parse_numbers(transform[key]) for key in ("scale", "translate"))
    )
    return _vector(scale), _vector(translate)


def _vector(values: Iterable[float]) -> Vector:
    z, y, x = (float(value) for value in values)
    return z, y, x
