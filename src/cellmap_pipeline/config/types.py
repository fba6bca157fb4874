"""Types of configuration values: names, paths, voxel sizes, patches, and what a key affects.

They are used while Snakemake parses, so nothing here imports torch, zarr or pandas.
"""

from __future__ import annotations

import re
from enum import StrEnum
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

from cellmap_pipeline.geometry import MAX_VOXEL_NM, MIN_VOXEL_NM

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# Names of files are made of it, which have up to 255 bytes.
MAX_NAME_CHARACTERS = 100
MAX_PATH_BYTES = 4000
MAX_WIDTH_NM = 1e5


class Affects(StrEnum):
    """The groups of keys that stages depend on; a key belongs to one or more of them."""

    DATASPLIT = "data split"
    DATASPLIT_FILE = "data split (its own file)"
    NETWORK = "network"
    LEARNING = "training"
    TRAINING_RUN = "training (its length and devices)"
    TRAINING_SPEED = "no result: speed and logs of the training"
    PREDICTION = "prediction"
    PREDICTION_SPEED = "no result: speed of the prediction"
    LABELS = "labels"
    PLAN = "which crops are predicted"
    JOBS = "no result: what jobs request"


def affects(*groups: Affects) -> dict[str, Any]:
    """Mark a key with its groups: `Field(…, json_schema_extra=affects(…))`."""
    return {"affects": [str(group) for group in groups]}


def keys_that_affect(model: type[BaseModel], group: Affects) -> tuple[str, ...]:
    """The keys of a model that belong to a group, in the order of their declaration."""
    return tuple(name for name in model.model_fields if group in groups_of(model, name))


def groups_of(model: type[BaseModel], key: str) -> list[str]:
    """The groups that a key of a model is marked with."""
    extra = model.model_fields[key].json_schema_extra
    found = extra.get("affects", []) if isinstance(extra, dict) else []
    assert isinstance(found, list)
    return [str(group) for group in found]


class Section(BaseModel):
    """A section of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_stray_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `yes`, `no`, `on` and `off` where no boolean is expected."""
        field = cls.model_fields[info.field_name or ""]
        stray = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, bool)]
        if stray and not _takes_boolean(field.annotation):
            raise ValueError(
                "YAML reads yes, no, on, off, true and false as booleans, but this key takes none: "
                "write a number, or the name in quotes"
            )
        return value


def _takes_boolean(annotation: Any) -> bool:
    return annotation is bool or any(map(_takes_boolean, get_args(annotation)))


def triple(value: Any) -> Any:
    """Repeat a single number for all three axes."""
    return [value] * 3 if isinstance(value, int | float | str) else value


def null(value: Any) -> Any:
    """Read text as None: `--config key=null` arrives as a string."""
    return None if value in ("null", "None", "") else value


def one_name(value: str) -> str:
    """Check that a name can be part of a folder's and of a rule's name."""
    if not NAME.fullmatch(value):
        is_file = value.endswith((".yaml", ".yml"))
        remedy = "the file's name without folder and ending" if is_file else "letters, digits, _, -"
        raise ValueError(f"{value[:80]!r} is not a name ({remedy})")
    if len(value) > MAX_NAME_CHARACTERS:
        raise ValueError(f"{value[:80]!r}… is longer than {MAX_NAME_CHARACTERS} characters")
    return value


def unique(values: list) -> list:
    """Check that a list has no duplicates."""
    duplicates = sorted({str(v) for v in values if values.count(v) > 1})
    if duplicates:
        raise ValueError(f"lists {', '.join(duplicates)} twice")
    return values


def size_of(key: str) -> tuple[float, ...]:
    """Parse a voxel size (nm; z, y, x) that is a key of `select`: "8", or "3.48 4 4"."""
    parts = tuple(float(part) for part in key.split())
    return parts * 3 if len(parts) == 1 else parts


def _size(value: Any) -> str:
    """Check a voxel size that is a key, and normalize its spaces."""
    try:
        sizes = size_of(str(value))
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or not all(0 < size < float("inf") for size in sizes):
        raise ValueError(f"{str(value)[:80]!r} is not a voxel size in nm, such as 8 or '3.48 4 4'")
    return " ".join(str(value).split())


def no_size_twice(choice: dict[str, Any]) -> dict[str, Any]:
    """Check that no two keys of a map are the same voxel size."""
    by_size: dict[tuple[float, ...], str] = {}
    for key in choice:
        other = by_size.setdefault(size_of(key), key)
        if other != key:
            raise ValueError(f"{other} and {key} are the same voxel size: remove one of the two")
    return choice


def _path(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty: give a path")
    if not value.isprintable():
        raise ValueError(f"holds characters that cannot be printed: {ascii(value[:80])}")
    if len(value.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"is longer than {MAX_PATH_BYTES} bytes, which no file system takes")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", value):
        raise ValueError("is a Windows path: write it as Linux sees it, such as /mnt/c/data")
    if re.search(r"\$\{?[A-Za-z_]", value):
        raise ValueError("variables are not expanded in paths: write the full path")
    try:
        return str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        raise ValueError("unknown user in `~user`: write the full path") from None


def _without_braces(value: str) -> str:
    if re.search(r"[{}]", value):
        raise ValueError("contains braces, which Snakemake reads as a wildcard: rename it")
    return value


def _not_a_url(value: str) -> str:
    if "://" in value:
        raise ValueError("is a URL, but must be a path on this machine")
    return value


def _without_spaces(value: str) -> str:
    if any(character.isspace() for character in value):
        raise ValueError("contains spaces, which Snakemake takes in no image's name: rename it")
    return value


Name = Annotated[str, AfterValidator(one_name)]
Names = Annotated[list[Name], Field(min_length=1), AfterValidator(unique)]
Crops = Annotated[list[int], Field(min_length=1)]
Nm = Annotated[float, Field(ge=MIN_VOXEL_NM, le=MAX_VOXEL_NM)]
VoxelSize = Annotated[tuple[Nm, Nm, Nm], BeforeValidator(triple)]
# Raw farther from a crop than this shows other tissue, and takes too long to predict.
Width = Annotated[float, Field(ge=0, le=MAX_WIDTH_NM)]
WidthNm = Annotated[tuple[Width, Width, Width], BeforeValidator(triple)]
SizeKey = Annotated[str, BeforeValidator(_size)]
Voxels = Annotated[int, Field(ge=1, le=4096)]
PatchSize = Annotated[tuple[Voxels, Voxels, Voxels], BeforeValidator(triple)]
Weight = Annotated[float, Field(gt=0)]
# `~` is expanded; relative paths are relative to the working directory.
Template = Annotated[str, AfterValidator(_path)]
PathOrUrl = Annotated[Template, AfterValidator(_without_braces)]
LocalPath = Annotated[PathOrUrl, AfterValidator(_not_a_url)]
Image = Annotated[PathOrUrl, AfterValidator(_without_spaces)]
