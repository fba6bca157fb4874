"""Strict models of the metadata of arrays, which all readers share.

What a model lets through has the right types and is within bounds, so that no later step has to
expect anything else. Members that a model does not name are kept in the stored metadata alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

MAX_SIDE_VOXELS = 2**40
MAX_AXES = 8
MAX_CODECS = 8
MAX_NAME_LETTERS = 32
# Types of numbers, dates and durations. Others hold text, records or Python objects.
NUMBER_KINDS = "biufcmM"
MAX_NAMED_ERRORS = 3

Model = TypeVar("Model", bound=BaseModel)


def _named(config: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(config.get(key), str) or len(config[key]) > MAX_NAME_LETTERS:
        raise ValueError(f"a codec must have a name under `{key}`")
    return config


def _dtype(name: str) -> str:
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        raise ValueError("it is not the name of a type") from None
    if dtype.kind not in NUMBER_KINDS or dtype.shape:
        raise ValueError(f"voxels are numbers, not {dtype}")
    return name


Side = Annotated[int, Field(ge=0, le=MAX_SIDE_VOXELS)]
ChunkSide = Annotated[int, Field(ge=1, le=MAX_SIDE_VOXELS)]
Sides = Annotated[list[Side], Field(min_length=1, max_length=MAX_AXES)]
ChunkSides = Annotated[list[ChunkSide], Field(min_length=1, max_length=MAX_AXES)]
Separator = Literal[".", "/"]
DtypeName = Annotated[str, Field(max_length=MAX_NAME_LETTERS), AfterValidator(_dtype)]
FillValue = int | float | bool | Annotated[str, Field(max_length=MAX_NAME_LETTERS)] | None
Codec = Annotated[dict[str, Any], AfterValidator(lambda config: _named(config, "id"))]
Codec3 = Annotated[dict[str, Any], AfterValidator(lambda config: _named(config, "name"))]
Number = Annotated[float, Field(allow_inf_nan=False)]


class StrictModel(BaseModel):
    """Model that converts no types; members that it does not name are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


class Zarray(StrictModel):
    """Content of a `.zarray`."""

    zarr_format: Literal[2] = 2
    shape: Sides
    chunks: ChunkSides
    dtype: DtypeName
    compressor: Codec | None = None
    filters: Annotated[list[Codec], Field(max_length=MAX_CODECS)] | None = None
    fill_value: FillValue = None
    order: Literal["C", "F"] = "C"
    dimension_separator: Separator | None = None

    @model_validator(mode="after")
    def _check_agreement(self) -> Zarray:
        _check_axes(self.shape, self.chunks)
        if self.fill_value is not None:
            try:
                np.array(self.fill_value, self.dtype)
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"`fill_value` does not fit the type: {error}") from None
        return self


class _SeparatorOf(StrictModel):
    separator: Separator | None = None


class _KeyEncoding(StrictModel):
    name: Annotated[str, Field(max_length=MAX_NAME_LETTERS)]
    configuration: _SeparatorOf = _SeparatorOf()


class _ChunkShapeOf(StrictModel):
    chunk_shape: ChunkSides


class _ChunkGrid(StrictModel):
    name: Literal["regular"] = "regular"
    configuration: _ChunkShapeOf


class ZarrJson(StrictModel):
    """Content of the `zarr.json` of an array."""

    node_type: Annotated[str, Field(max_length=MAX_NAME_LETTERS)]
    shape: Sides
    data_type: DtypeName
    chunk_grid: _ChunkGrid
    chunk_key_encoding: _KeyEncoding
    codecs: Annotated[list[Codec3], Field(max_length=MAX_CODECS)]

    @model_validator(mode="after")
    def _check_agreement(self) -> ZarrJson:
        _check_axes(self.shape, self.chunk_grid.configuration.chunk_shape)
        _check_axes(self.shape, self.decoded_chunks)
        return self

    @property
    def decoded_chunks(self) -> list[int]:
        """Shape of the chunks, or of those inside of shards."""
        for codec in self.codecs:
            if codec["name"] == "sharding_indexed":
                return parse_model(_ChunkShapeOf, codec.get("configuration")).chunk_shape
        return self.chunk_grid.configuration.chunk_shape


class N5Array(StrictModel):
    """Content of the `attributes.json` of an n5 array, axes x, y, z."""

    dimensions: Sides
    blockSize: ChunkSides  # noqa: N815 (n5 names it so)
    dataType: DtypeName  # noqa: N815

    @model_validator(mode="after")
    def _check_agreement(self) -> N5Array:
        _check_axes(self.dimensions, self.blockSize)
        return self


def _check_axes(shape: Sequence[int], chunks: Sequence[int]) -> None:
    if len(shape) != len(chunks):
        raise ValueError(f"the chunks {list(chunks)} have other axes than the shape {list(shape)}")


_NUMBERS: TypeAdapter[list[float]] = TypeAdapter(
    Annotated[list[Number], Field(min_length=1, max_length=MAX_AXES)],
    config=ConfigDict(strict=True),
)
_SIDES: TypeAdapter[list[int]] = TypeAdapter(Sides, config=ConfigDict(strict=True))


def parse_model(model: type[Model], stored: Any) -> Model:
    """Parse metadata.

    Raises
    ------
    ValueError
        They do not match the model. The message names each wrong key.
    """
    try:
        return model.model_validate(stored)
    except ValidationError as error:
        raise ValueError(_message(error)) from None


def parse_sides(stored: Any) -> list[int]:
    """Parse the shape of an array.

    Raises
    ------
    ValueError
        It is not a list of whole numbers of 0 or more.
    """
    try:
        return _SIDES.validate_python(stored)
    except ValidationError as error:
        raise ValueError(_message(error)) from None


def parse_numbers(stored: Any) -> list[float]:
    """Parse a list or tuple of finite numbers.

    Raises
    ------
    ValueError
        It is something else.
    """
    try:
        return _NUMBERS.validate_python(list(stored) if isinstance(stored, tuple) else stored)
    except ValidationError as error:
        raise ValueError(_message(error)) from None


def _message(error: ValidationError) -> str:
    """The first errors, each with its key."""
    texts = []
    for entry in error.errors(include_url=False, include_input=False)[:MAX_NAMED_ERRORS]:
        key = ".".join(map(str, entry["loc"]))
        message = entry["msg"].removeprefix("Value error, ")
        texts.append(f"`{key}`: {message}" if key else message)
    return "; ".join(texts)
