"""Kinds of values in the configuration: names, paths, voxel sizes, patches.

Read while Snakemake parses, so nothing here imports torch, zarr or pandas.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from cellmap_pipeline.geometry import LARGEST_NM, SMALLEST_NM

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Section(BaseModel):
    """A part of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_stray_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """`yes`, `no`, `on` and `off` are no numbers, and names only in quotes."""
        field = cls.model_fields[info.field_name or ""]
        stray = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, bool)]
        if stray and not _takes_boolean(field.annotation):
            raise ValueError(
                "YAML reads yes, no, on, off, true and false as switches, which this is not: write "
                "a number, or the name in quotes"
            )
        return value


def _takes_boolean(annotation: Any) -> bool:
    return annotation is bool or any(map(_takes_boolean, get_args(annotation)))


def triple(value: Any) -> Any:
    """One number stands for all three axes."""
    return [value] * 3 if isinstance(value, int | float | str) else value


def null(value: Any) -> Any:
    """`--config key=null` arrives as text."""
    return None if value in ("null", "None", "") else value


def one_name(value: str) -> str:
    """A name that can be a folder's and stand in a rule's name."""
    if not NAME.fullmatch(value):
        is_file = value.endswith((".yaml", ".yml"))
        remedy = "the file's name without folder and ending" if is_file else "letters, digits, _, -"
        raise ValueError(f"{value[:80]!r} is not a name ({remedy})")
    return value


def unique(values: list) -> list:
    """A list in which nothing stands twice."""
    double = sorted({str(v) for v in values if values.count(v) > 1})
    if double:
        raise ValueError(f"lists {', '.join(double)} twice")
    return values


def size_of(key: str) -> tuple[float, ...]:
    """The voxel size (nm; z, y, x) that a key of `select` stands for: "8", or "3.48 4 4"."""
    parts = tuple(float(part) for part in key.split())
    return parts * 3 if len(parts) == 1 else parts


def _size(value: Any) -> str:
    """A voxel size as a key."""
    try:
        sizes = size_of(str(value))
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or not all(0 < size < float("inf") for size in sizes):
        raise ValueError(f"{str(value)[:80]!r} is not a voxel size in nm, such as 8 or '3.48 4 4'")
    return " ".join(str(value).split())


def no_size_twice(choice: dict[str, Any]) -> dict[str, Any]:
    """A map by voxel size in which each stands once."""
    by_size: dict[tuple[float, ...], str] = {}
    for key in choice:
        other = by_size.setdefault(size_of(key), key)
        if other != key:
            raise ValueError(f"{other} and {key} are the same voxel size: remove one of the two")
    return choice


def _path(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty: give a path")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", value):
        raise ValueError("is a path of Windows: give it as Linux has it, such as /mnt/c/data")
    if re.search(r"\$\{?[A-Za-z_]", value):
        raise ValueError("variables are not replaced in paths: write the path itself")
    try:
        return str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        raise ValueError("begins with the home folder of nobody here: write it out") from None


def _without_braces(value: str) -> str:
    if re.search(r"[{}]", value):
        raise ValueError("has braces, which Snakemake takes for a wildcard: rename it")
    return value


def _not_a_url(value: str) -> str:
    if "://" in value:
        raise ValueError("is a URL, but must be a path of this machine")
    return value


Name = Annotated[str, AfterValidator(one_name)]
Names = Annotated[list[Name], Field(min_length=1), AfterValidator(unique)]
Crops = Annotated[list[int], Field(min_length=1)]
Nm = Annotated[float, Field(ge=SMALLEST_NM, le=LARGEST_NM)]
VoxelSize = Annotated[tuple[Nm, Nm, Nm], BeforeValidator(triple)]
SizeKey = Annotated[str, BeforeValidator(_size)]
Voxels = Annotated[int, Field(ge=1, le=4096)]
PatchSize = Annotated[tuple[Voxels, Voxels, Voxels], BeforeValidator(triple)]
Weight = Annotated[float, Field(gt=0)]
# Paths: `~` is the home folder, and what is relative is so to the working directory.
Template = Annotated[str, AfterValidator(_path)]
PathOrUrl = Annotated[Template, AfterValidator(_without_braces)]
LocalPath = Annotated[PathOrUrl, AfterValidator(_not_a_url)]
