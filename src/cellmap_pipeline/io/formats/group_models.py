"""Strict models of where the voxels of volumes lie: OME-NGFF and n5, groups and arrays.

As in `formats.models`, what they let through has the right types and is within bounds. Members that
a model does not name are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cellmap_pipeline.io.formats.models import MAX_NAME_LETTERS, StrictModel

# Each level has half of the voxels of the one before: there are not more in any volume.
MAX_LEVELS = 64
MAX_PATH_LETTERS = 1024
# A million kilometers in nm, or a kilometer in the smallest unit. Products of some stay finite.
MAX_LENGTH = 1e15
# Units of length by their names in OME-NGFF and n5.
NANOMETERS = {
    "nanometer": 1.0, "nm": 1.0, "picometer": 1e-3, "angstrom": 0.1,
    "micrometer": 1e3, "um": 1e3, "\u00b5m": 1e3, "\u03bcm": 1e3,  # The micro sign, Greek mu.
    "millimeter": 1e6, "mm": 1e6, "meter": 1e9,
}  # fmt: skip


def _first(entries: Any) -> Any:
    """Only the first multiscale is read; others may be of any kind."""
    return entries[:1] if isinstance(entries, list) else entries


def _listed(entries: Any) -> Any:
    """Some writers put null in the place of an empty list."""
    return [] if entries is None else entries


def _path(path: str) -> str:
    if "\0" in path:
        raise ValueError("it is no path")
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"the level {path!r} lies outside the volume")
    return path


def _zyx(names: list[str]) -> list[str]:
    if sorted(names) != ["x", "y", "z"]:
        raise ValueError(f"they are {names}, but must be z, y and x in any order")
    return names


def _unit(name: str) -> str:
    if name not in NANOMETERS:
        raise ValueError(f"{name!r} is none of {', '.join(NANOMETERS)}")
    return name


NULL_IS_EMPTY = BeforeValidator(_listed)
Position = Annotated[float, Field(ge=-MAX_LENGTH, le=MAX_LENGTH, allow_inf_nan=False)]
Size = Annotated[float, Field(gt=0, le=MAX_LENGTH, allow_inf_nan=False)]
Positions = Annotated[list[Position], Field(min_length=3, max_length=3)]
Sizes = Annotated[list[Size], Field(min_length=3, max_length=3)]
Name = Annotated[str, Field(max_length=MAX_NAME_LETTERS)]
LengthUnit = Annotated[Name, AfterValidator(_unit)]
LevelPath = Annotated[str, Field(max_length=MAX_PATH_LETTERS), AfterValidator(_path)]
AxisNames = Annotated[list[Name], Field(max_length=8), AfterValidator(_zyx)]


class Scale(StrictModel):
    """Step of `coordinateTransformations` that multiplies."""

    type: Literal["scale"]
    scale: Sizes


class Translation(StrictModel):
    """Step of `coordinateTransformations` that adds."""

    type: Literal["translation"]
    translation: Positions


Step = Annotated[Scale | Translation, Field(discriminator="type")]
Steps = Annotated[list[Step], Field(max_length=8)]


def combine_steps(steps: Sequence[Scale | Translation]) -> tuple[list[float], list[float]]:
    """Combine steps, in the order in which they apply.

    Returns
    -------
    Scale and translation along each axis, in the unit of the axes.
    """
    scale, translation = [1.0] * 3, [0.0] * 3
    for step in steps:
        if isinstance(step, Scale):
            scale = [a * b for a, b in zip(scale, step.scale, strict=True)]
            translation = [a * b for a, b in zip(translation, step.scale, strict=True)]
        else:
            translation = [a + b for a, b in zip(translation, step.translation, strict=True)]
    return scale, translation


class Axis(StrictModel):
    """Axis of OME-NGFF."""

    name: Name
    unit: Name = "nanometer"


class NgffLevel(StrictModel):
    """Entry of `datasets` of OME-NGFF."""

    path: LevelPath
    coordinateTransformations: Steps  # noqa: N815 (OME-NGFF names it so)

    @model_validator(mode="after")
    def _check_scale(self) -> NgffLevel:
        if not any(isinstance(step, Scale) for step in self.coordinateTransformations):
            raise ValueError("`coordinateTransformations` have no scale")
        return self


class NgffMultiscale(StrictModel):
    """Entry of `multiscales` of OME-NGFF 0.4 and 0.5."""

    axes: Annotated[list[Axis | Name], Field(max_length=8)]
    datasets: Annotated[list[NgffLevel], Field(max_length=MAX_LEVELS)]
    coordinateTransformations: Steps = []  # noqa: N815


class NgffGroup(StrictModel):
    """Attributes of a multiscale group of OME-NGFF."""

    multiscales: Annotated[list[NgffMultiscale], Field(min_length=1), BeforeValidator(_first)]


class ArrayPosition(StrictModel):
    """Attributes of an array of a submission."""

    voxel_size: Sizes
    translation: Positions


class N5Transform(StrictModel):
    """`transform` of an n5 array, or of a level in its group: axes in any order."""

    axes: AxisNames
    units: Annotated[list[LengthUnit], Field(max_length=3)] | None = None
    scale: Sizes
    translate: Positions

    @model_validator(mode="after")
    def _check_units(self) -> N5Transform:
        if self.units and len(self.units) != 3:
            raise ValueError("`units` must name one for each axis")
        return self


class N5Level(StrictModel):
    """Entry of `datasets` in the `multiscales` of an n5 group."""

    path: LevelPath
    transform: N5Transform | None = None
    coordinateTransformations: Steps | None = None  # noqa: N815


class N5Multiscale(StrictModel):
    """Entry of `multiscales` of an n5 group."""

    datasets: Annotated[list[N5Level], Field(max_length=MAX_LEVELS), NULL_IS_EMPTY] = []
    axes: Annotated[list[Axis | Name], Field(max_length=8), NULL_IS_EMPTY] = []
    coordinateTransformations: Annotated[Steps, NULL_IS_EMPTY] = []  # noqa: N815


class PixelResolution(StrictModel):
    """`pixelResolution` of n5-viewer with a unit, axes x, y, z."""

    dimensions: Sizes
    # Arrays with a `transform` may have `pixel`.
    unit: Name = "nm"


class N5Attributes(StrictModel):
    """Attributes of an n5 array that say where the voxels lie; axes x, y, z."""

    transform: N5Transform | None = None
    pixelResolution: PixelResolution | Sizes | None = None  # noqa: N815
    downsamplingFactors: Sizes | None = None  # noqa: N815

    @model_validator(mode="before")
    @classmethod
    def _prefer_transform(cls, members: Any) -> Any:
        """Leave out what is not read beside a `transform`, and may be of any kind."""
        if isinstance(members, dict) and members.get("transform") is not None:
            return {"transform": members["transform"]}
        return members


class N5Group(StrictModel):
    """Attributes of an n5 group."""

    pixelResolution: PixelResolution | Sizes | None = None  # noqa: N815
    multiscales: Annotated[list[N5Multiscale], BeforeValidator(_first), NULL_IS_EMPTY] = []
    scales: Annotated[list[Sizes], Field(max_length=MAX_LEVELS), NULL_IS_EMPTY] = []
