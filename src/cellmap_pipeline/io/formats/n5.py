"""Metadata of n5 volumes.

Formats: https://github.com/saalfeldlab/n5, whose arrays are x, y, z; the `transform` of COSEM's
arrays (axes, scale, translate, units); and n5-viewer's `pixelResolution`, `downsamplingFactors`
and `scales` (https://github.com/saalfeldlab/n5-viewer).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid, Vector, shape_of
from cellmap_pipeline.io.formats.array import ArrayMetadata
from cellmap_pipeline.io.formats.group_models import (
    MAX_LEVELS,
    NANOMETERS,
    Axis,
    N5Attributes,
    N5Group,
    N5Level,
    N5Multiscale,
    N5Transform,
    PixelResolution,
    combine_steps,
)
from cellmap_pipeline.io.formats.models import N5Array, parse_model, parse_sides
from cellmap_pipeline.io.formats.ngff import StoredLevel
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
    try:
        attributes = parse_model(N5Group, group)
        if "dimensions" in group:
            return [_stored_level(path, group, attributes, None, 0)]
        transforms: dict[Location, N5Transform | None] = {
            path / level.path: _transform_of(level, multiscale)
            for multiscale in attributes.multiscales
            for level in multiscale.datasets
        }
        levels = list(transforms) or _scales(path, len(attributes.scales))
        stored = []
        for number, level in enumerate(levels):
            # A local copy may lack levels, whose voxel sizes are then known from the group.
            array = read_json_if_present(level / "attributes.json") or {}
            try:
                stored.append(
                    _stored_level(level, array, attributes, transforms.get(level), number)
                )
            except ValueError as error:
                raise ValueError(f"{level.name}: {error}") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"{path}/attributes.json does not say where the voxels lie, nor do those of its levels "
            f"({error}): an n5 array needs `transform` (axes, scale, translate) or "
            "`pixelResolution`, and `downsamplingFactors` where it is not the finest"
        ) from None
    if not stored:
        raise InputError(
            f"{path} holds no level: an n5 volume is an array, or a group of s0, s1, …"
        )
    return stored


def level_names(group: Metadata) -> list[str]:
    """List the paths of the levels in the `multiscales` of an n5 group.

    Raises
    ------
    ValueError
        Its attributes are malformed, or a level lies outside of the group.
    """
    multiscales = parse_model(N5Group, group).multiscales
    return [level.path for multiscale in multiscales for level in multiscale.datasets]


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


def _stored_level(
    path: Location, array: Metadata, group: N5Group, transform: N5Transform | None, number: int
) -> StoredLevel:
    """Return level `number` of a group by the attributes of its array, empty if it is absent.

    Raises
    ------
    ValueError
        They do not say where the voxels lie.
    """
    own = parse_model(N5Attributes, array)
    transform = own.transform or transform
    size, center = _by_transform(transform) if transform else _by_resolution(own, group, number)
    if not array:
        return StoredLevel(path, size, center, None)
    shape = shape_of(parse_sides(array.get("dimensions"))[::-1])
    return StoredLevel(path, size, center, Grid(size, center, shape))


def _transform_of(level: N5Level, multiscale: N5Multiscale) -> N5Transform | None:
    """The `transform` of a level of `multiscales`, also if given as in NGFF.

    Raises
    ------
    ValueError
        It is given as in NGFF, without names of the axes.
    """
    if level.coordinateTransformations is None:
        return level.transform
    axes = [axis for axis in multiscale.axes if isinstance(axis, Axis)]
    scale, translation = combine_steps(
        [*level.coordinateTransformations, *multiscale.coordinateTransformations]
    )
    return parse_model(
        N5Transform,
        {
            # The names give the order.
            "axes": [axis.name for axis in axes],
            "units": [axis.unit for axis in axes],
            "scale": scale,
            "translate": translation,
        },
    )


def _scales(path: Location, number: int) -> list[Location]:
    while (
        number < MAX_LEVELS
        and read_json_if_present(path / f"s{number}" / "attributes.json") is not None
    ):
        number += 1
    return [path / f"s{i}" for i in range(number)]


def _by_resolution(own: N5Attributes, group: N5Group, number: int) -> tuple[Vector, Vector]:
    """Voxel size and translation, z, y, x, of level `number` from its `pixelResolution`."""
    factors = own.downsamplingFactors
    if own.pixelResolution and not factors:
        size = _resolution(own.pixelResolution)
        finest = size if number == 0 else _resolution(group.pixelResolution)
    else:
        finest = _resolution(own.pixelResolution or group.pixelResolution)
        scales = group.scales or [[1.0, 1.0, 1.0]]
        if factors is None and number >= len(scales):
            raise ValueError(f"level {number} has no `downsamplingFactors`")
        size = finest * np.array(factors or scales[number])
    # The center of a downsampled voxel is the mean of the centers that it covers.
    return _vector(size[::-1]), _vector((size - finest)[::-1] / 2)


def _resolution(stated: PixelResolution | list[float] | None) -> NDArray[np.float64]:
    """Return a `pixelResolution` in nm, x, y, z."""
    if stated is None:
        raise ValueError("`pixelResolution` is missing")
    if isinstance(stated, list):
        return np.array(stated)
    if stated.unit not in NANOMETERS:
        raise ValueError(f"`pixelResolution.unit`: {stated.unit!r} is no unit of length")
    return np.array(stated.dimensions) * NANOMETERS[stated.unit]


def _by_transform(transform: N5Transform) -> tuple[Vector, Vector]:
    """Voxel size and translation, z, y, x, of a `transform`."""
    order = [transform.axes.index(axis) for axis in "zyx"]
    factors = [NANOMETERS[unit] for unit in transform.units or ["nm"] * 3]
    return (
        _vector(transform.scale[i] * factors[i] for i in order),
        _vector(transform.translate[i] * factors[i] for i in order),
    )


def _vector(values: Iterable[float]) -> Vector:
    z, y, x = (float(value) for value in values)
    return z, y, x
