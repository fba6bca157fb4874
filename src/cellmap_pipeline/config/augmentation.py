"""The section `augment` of a training's file: random changes of training patches.

Each change has a probability, with which a patch gets it, and a range, from which its strength is
drawn. Strengths of intensity changes are in units of the normalized raw, which the network gets:
`normalized = (raw - center) * scale` with raw in 0..1 (`NORMALIZATION`). With the fixed scale of 4,
a unit is a quarter of raw's range; in EM, the standard deviation of raw is about 0.6 to 0.8 units.
"""

from __future__ import annotations

from math import atan2, ceil, cos, hypot, radians, sqrt
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from cellmap_pipeline.config.types import Section
from cellmap_pipeline.geometry import Shape, Vector, shape_of

# Center and scale that turn raw in 0..1 into the network's input of -2..2.
NORMALIZATION = (0.5, 4.0)
# Share of rotated patches where `rotate` is a number: interpolation blurs raw, and prediction gets
# sharp raw, so not all patches are rotated.
NUMBER_ROTATED_SHARE = 0.5
ROUNDING_VOXELS = 1e-6


def as_number(value: Any) -> float | None:
    """Return the number that a value of a file is; None if it is none."""
    if isinstance(value, bool):
        return None
    try:
        # YAML reads 1e-2, without a dot, as text.
        return float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return None


def _within(number: float, maximum: float) -> float:
    if not 0 <= number <= maximum:
        raise ValueError(f"{number:g} is not within 0..{maximum:g}")
    return number


def _ascending(limits: tuple[Any, Any]) -> tuple[Any, Any]:
    if limits[0] > limits[1]:
        raise ValueError(f"begins above its end: write [{limits[1]:g}, {limits[0]:g}]")
    return limits


Probability = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=10)]
ScaleFactor = Annotated[float, Field(ge=0.25, le=4)]
Reduction = Annotated[float, Field(ge=0.1, le=1)]
Shift = Annotated[float, Field(ge=-4, le=4)]
Sigma = Annotated[float, Field(ge=0, le=5)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Sections = Annotated[int, Field(ge=1, le=100)]
ShiftVoxels = Annotated[float, Field(ge=1, le=100)]


class Change(Section):
    """A random change; `neutral` is the strength that changes nothing."""

    neutral: ClassVar[float] = 0.0

    probability: Probability
    range: Annotated[tuple[float, float], AfterValidator(_ascending)]

    @property
    def on(self) -> bool:
        """Whether any patch is changed."""
        return self.probability > 0 and self.range != (self.neutral, self.neutral)

    @classmethod
    def of_number(cls, number: float) -> dict[str, Any]:
        """Return the values that a number in the place of this section stands for.

        Raises
        ------
        ValueError
            The number is out of range, or this change takes none.
        """
        raise ValueError(
            f"{number:g} is no section: write {{probability: …, range: [from, to]}}, or 0 to "
            "switch it off"
        )

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        number = as_number(value)
        if number is None:
            return value
        return cls.of_number(number) if number else {"probability": 0.0}


class Rotation(Change):
    """Rotation about any axis."""

    probability: Probability = Field(0.2, description="share of the patches")
    range: Annotated[tuple[Degrees, Degrees], AfterValidator(_ascending)] = Field(
        (0.0, 0.0), description="angle, degrees, up to 180, about any axis"
    )

    @classmethod
    def of_number(cls, number: float) -> dict[str, Any]:
        """Return a rotation of half of the patches by up to so many degrees."""
        return {
            "probability": NUMBER_ROTATED_SHARE,
            "range": (0.0, _within(number, 180)),
        }


class Scaling(Change):
    """Change of size, for which more or less is read."""

    neutral: ClassVar[float] = 1.0

    probability: Probability = Field(0.2, description="share of the patches")
    range: Annotated[tuple[ScaleFactor, ScaleFactor], AfterValidator(_ascending)] = Field(
        (0.7, 1.4),
        description="length that is read, in lengths of the patch, 0.25 to 4: above 1, objects "
        "get smaller",
    )


class Contrast(Change):
    """Change of contrast around a patch's mean."""

    neutral: ClassVar[float] = 1.0

    probability: Probability = Field(0.15, description="share of the patches")
    range: Annotated[tuple[Factor, Factor], AfterValidator(_ascending)] = Field(
        (0.8, 1.2), description="factor around the patch's mean"
    )

    @classmethod
    def of_number(cls, number: float) -> dict[str, Any]:
        """Return a change of every patch's contrast by a fraction."""
        number = _within(number, 0.99)
        return {"probability": 1.0, "range": (1 - number, 1 + number)}


class Brightness(Change):
    """Multiplication of the normalized raw."""

    neutral: ClassVar[float] = 1.0

    probability: Probability = Field(0.15, description="share of the patches")
    range: Annotated[tuple[Factor, Factor], AfterValidator(_ascending)] = Field(
        (0.8, 1.2), description="factor of the normalized raw"
    )


class Offset(Change):
    """Addition to the normalized raw."""

    probability: Probability = Field(0.15, description="share of the patches")
    range: Annotated[tuple[Shift, Shift], AfterValidator(_ascending)] = Field(
        (-0.4, 0.4), description="added to the normalized raw"
    )


class Gamma(Change):
    """Power of raw in 0..1."""

    neutral: ClassVar[float] = 1.0

    probability: Probability = Field(0.3, description="share of the patches")
    range: Annotated[tuple[Factor, Factor], AfterValidator(_ascending)] = Field(
        (0.7, 1.5), description="exponent of raw in 0..1"
    )
    keep_statistics: bool = Field(
        True, description="restore the patch's mean and standard deviation afterwards"
    )

    @classmethod
    def of_number(cls, number: float) -> dict[str, Any]:
        """Return a change of every patch's gamma, which changes its mean, too."""
        number = _within(number, 1)
        return {
            "probability": 1.0,
            "range": (1 / (1 + number), 1 + number),
            "keep_statistics": False,
        }


class InvertedGamma(Gamma):
    """Power of one less raw."""

    probability: Probability = Field(0.1, description="share of the patches")

    @classmethod
    def of_number(cls, number: float) -> dict[str, Any]:
        """Take no number."""
        return Change.of_number(number)


class LowResolution(Change):
    """Loss of resolution: raw is made smaller and enlarged again."""

    neutral: ClassVar[float] = 1.0

    probability: Probability = Field(0.125, description="share of the patches")
    range: Annotated[tuple[Reduction, Reduction], AfterValidator(_ascending)] = Field(
        (0.5, 1.0), description="factor of the resolution, 0.1 to 1, except along a coarse axis"
    )


class Blur(Change):
    """Gaussian blur."""

    probability: Probability = Field(0.1, description="share of the patches")
    range: Annotated[tuple[Sigma, Sigma], AfterValidator(_ascending)] = Field(
        (0.5, 1.0), description="σ in voxels, up to 5, except along a coarse axis"
    )

    @classmethod
    def of_number(cls, number: float) -> dict[str, Any]:
        """Return a blur by up to σ of the default share of the patches."""
        return {"range": (0.0, _within(number, 5))}


class Noise(Change):
    """Gaussian noise."""

    probability: Probability = Field(0.1, description="share of the patches")
    range: Annotated[tuple[Sigma, Sigma], AfterValidator(_ascending)] = Field(
        (0.0, 0.08), description="σ in units of the normalized raw"
    )

    @classmethod
    def of_number(cls, number: float) -> dict[str, Any]:
        """Return noise of every patch by up to σ in units of raw in 0..1."""
        return {"probability": 1.0, "range": (0.0, _within(number, 1) * NORMALIZATION[1])}


class MissingSection(Change):
    """Blank sections; their labels stay known."""

    probability: Probability = Field(0.0, description="share of the patches")
    range: Annotated[tuple[Sections, Sections], AfterValidator(_ascending)] = Field(
        (1, 1), description="number of adjacent sections that are blank"
    )


class ShiftedSection(Change):
    """A section whose raw is shifted in its plane; its labels stay."""

    probability: Probability = Field(0.0, description="share of the patches")
    range: Annotated[tuple[ShiftVoxels, ShiftVoxels], AfterValidator(_ascending)] = Field(
        (1.0, 8.0), description="distance in the section's plane, voxels, 1 to 100"
    )


class BlurredSection(Change):
    """A section that is blurred in its plane."""

    probability: Probability = Field(0.0, description="share of the patches")
    range: Annotated[tuple[Sigma, Sigma], AfterValidator(_ascending)] = Field(
        (1.0, 3.0), description="σ in the section's plane, voxels, up to 5"
    )


class _OrNumber:
    """Let the JSON schema of a section allow a number, which `Change` reads."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "number"}]}


class Augmentation(Section):
    """Random changes of training patches."""

    flip: bool = Field(True, description="mirror along each axis")
    transpose: bool = Field(True, description="swap axes of equal voxel size")
    rotate90: bool = Field(True, description="rotate by multiples of 90°")
    rotate: Annotated[Rotation, _OrNumber()] = Field(
        Rotation(), description="free rotation; a number: half of the patches, up to this angle"
    )
    scaling: Annotated[Scaling, _OrNumber()] = Field(
        Scaling(), description="change of size, by reading a larger or smaller box; 0: off"
    )
    contrast: Annotated[Contrast, _OrNumber()] = Field(
        Contrast(),
        description="change of contrast; a number: contrast by ± this fraction in each patch, and "
        "`offset` by ± twice the number, in place of the defaults of `brightness` and `offset`",
    )
    brightness: Annotated[Brightness, _OrNumber()] = Field(
        Brightness(), description="multiplication of the normalized raw; 0: off"
    )
    offset: Annotated[Offset, _OrNumber()] = Field(
        Offset(), description="addition to the normalized raw; 0: off"
    )
    gamma: Annotated[Gamma, _OrNumber()] = Field(
        Gamma(),
        description="power of raw; a number: the exponent of each patch is up to 1 + this number, "
        "or one over it, in place of the defaults of `inverted_gamma`",
    )
    inverted_gamma: Annotated[InvertedGamma, _OrNumber()] = Field(
        InvertedGamma(), description="power of inverted raw, which is inverted back; 0: off"
    )
    low_resolution: Annotated[LowResolution, _OrNumber()] = Field(
        LowResolution(), description="raw made smaller and enlarged again; 0: off"
    )
    blur: Annotated[Blur, _OrNumber()] = Field(
        Blur(), description="Gaussian blur; a number: σ from 0 to this, in voxels"
    )
    noise: Annotated[Noise, _OrNumber()] = Field(
        Noise(),
        description="Gaussian noise; a number: each patch, σ from 0 to this, in units of raw in "
        "0..1",
    )
    missing_section: Annotated[MissingSection, _OrNumber()] = Field(
        MissingSection(),
        description="blank sections along the coarse axis, or along any one; labels stay",
    )
    shifted_section: Annotated[ShiftedSection, _OrNumber()] = Field(
        ShiftedSection(), description="a section whose raw is shifted in its plane; labels stay"
    )
    blurred_section: Annotated[BlurredSection, _OrNumber()] = Field(
        BlurredSection(), description="a section that is blurred in its plane"
    )

    @model_validator(mode="before")
    @classmethod
    def _other_changes_of_numbers(cls, values: Any) -> Any:
        """Set what numbers for `contrast` and `gamma` mean for other keys."""
        if not isinstance(values, dict):
            return values
        implied: dict[str, Any] = {}
        contrast = as_number(values.get("contrast"))
        if contrast is not None:
            limit = min(1.0, abs(contrast)) / 2 * NORMALIZATION[1]
            implied |= {
                "brightness": 0,
                "offset": {"probability": 1.0, "range": (-limit, limit)} if contrast else 0,
            }
        if as_number(values.get("gamma")) is not None:
            implied["inverted_gamma"] = 0
        return implied | values

    def resampling_margin(self, patch_size: Shape, voxel_size: Vector) -> Shape:
        """Voxels (z, y, x) that are read at most on each side of a patch to rotate or scale it."""
        degrees = self.rotate.range[1] if self.rotate.on else 0
        scale = max(1.0, self.scaling.range[1]) if self.scaling.on else 1.0
        half = [(n - 1) / 2 * v for n, v in zip(patch_size, voxel_size, strict=True)]
        diagonal = hypot(*half)
        margin = []
        for side, v in zip(half, voxel_size, strict=True):
            # A corner gets farthest along an axis when it turns straight towards it.
            to_axis = atan2(sqrt(max(0.0, diagonal**2 - side**2)), side)
            reach = scale * diagonal * cos(max(0.0, to_axis - radians(degrees)))
            margin.append(ceil((reach - side) / v - ROUNDING_VOXELS))
        return shape_of(margin)
