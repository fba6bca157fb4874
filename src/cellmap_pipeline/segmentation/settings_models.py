"""The settings of methods that make labels: defaults, ranges and meaning."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")
    return value


# Text is converted, since YAML reads 1e6 as text.
Number = Annotated[float, BeforeValidator(_refuse_boolean)]
Switch = Annotated[bool, Field(strict=True)]
# Marks the settings that the search for fragments, the slow half of an instance method, depends on.
FINDS_FRAGMENTS: Any = {"finds_fragments": True}


class MethodSettings(BaseModel):
    """Settings of all methods."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    threshold: Number = Field(
        0.5,
        ge=0,
        le=1,
        description="voxels of at least this probability are inside",
        json_schema_extra=FINDS_FRAGMENTS,
    )
    smooth_nm: Number = Field(
        0.0,
        ge=0,
        le=1000,
        description="σ of a Gaussian that smooths the probabilities first, nm",
        json_schema_extra=FINDS_FRAGMENTS,
    )
    fill_holes: Switch = Field(False, description="fill the holes that an object encloses")


class SemanticSettings(MethodSettings):
    """Settings of semantic labels."""

    min_size_nm3: Number = Field(0.0, ge=0, le=1e15, description="smaller objects are removed, nm³")


class InstanceSettings(MethodSettings):
    """Settings of all instance labels."""

    min_size_nm3: Number = Field(5e3, ge=0, le=1e15, description="smaller objects are removed, nm³")


class NeckSettings(InstanceSettings):
    """Settings of methods that split objects at necks."""

    neck: Number = Field(
        0.7,
        ge=0,
        le=1,
        description="objects are split where they get narrower than this fraction of the thinner "
        "one",
    )


class MergingSettings(MethodSettings):
    """Settings of methods that merge fragments by the boundary between them."""

    min_size_nm3: Number = Field(
        5e3, ge=0, le=1e15, description="smaller objects are removed, nm³ (see `merge_small`)"
    )
    merge_threshold: Number = Field(
        0.4,
        ge=0,
        le=1,
        description="fragments merge whose shared faces have a lower mean boundary probability",
    )
    merge_small: Switch = Field(
        True,
        description="an object that is too small joins the neighbor behind the weakest boundary, "
        "if it has one",
    )


class RidgeSettings(MergingSettings):
    """Settings of watersheds that follow predicted ridges between objects."""

    seed_threshold: Number = Field(
        0.3,
        ge=0,
        le=1,
        description="seeds lie where the probability of a boundary is below this",
        json_schema_extra=FINDS_FRAGMENTS,
    )


class MutexSettings(MergingSettings):
    """Settings of the mutex watershed."""

    affinity_threshold: Number = Field(
        0.5,
        ge=0,
        le=1,
        description="neighbors with a higher affinity attract one another; voxels with a lower "
        "one, also at a distance, repel one another",
        json_schema_extra=FINDS_FRAGMENTS,
    )
