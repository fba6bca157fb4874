"""The configuration of a run: what is allowed, with ranges and defaults.

Read while Snakemake parses, so nothing here imports torch, zarr or pandas.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from cellmap_pipeline.config.types import (
    Crops,
    LocalPath,
    Name,
    Names,
    PathOrUrl,
    Section,
    SizeKey,
    Template,
    no_size_twice,
    null,
    one_name,
    unique,
)

# What the name of a source ends with that makes a label of its parts.
PARTS = ":parts"


def _source(value: str) -> str:
    one_name(value.removesuffix(PARTS))
    return value


SourceName = Annotated[str, AfterValidator(_source)]
Sources = SourceName | Annotated[list[SourceName], Field(min_length=1), AfterValidator(unique)]
BySize = dict[SizeKey, Sources]
Choice = Sources | Annotated[BySize, Field(min_length=1), AfterValidator(no_size_twice)]


class Submission(Section):
    """What is submitted."""

    crops: Literal["all"] | Crops = Field("all", description="test crops")
    classes: Literal["all"] | Names = Field("all", description="labels")
    select: Literal["best", "average"] | Annotated[dict[Name, Choice], Field(min_length=1)] = Field(
        "best",
        description="per label and voxel size the source with the best validation score, the "
        "average of all, or a map label: source (a training, `training:parts` for a label made of "
        "parts, or a name in `predictions`), [source, source] to average these, or {nm: source}",
    )
    missing: Literal["leave_out", "empty"] = Field(
        "leave_out", description="labels that nothing predicts: left out, or written empty"
    )


class Elsewhere(Section):
    """Predictions made elsewhere."""

    path: Template = Field(description="path with {dataset}, {crop} and {label}")
    classes: Literal["all"] | Names = Field("all", description="labels that are there")


class Fetch(Section):
    """What is brought from the challenge's bucket before anything else."""

    crops: PathOrUrl = Field(
        description="path or URL of the challenge's crop table (manifest.csv): where each crop's "
        "labels and raw lie"
    )
    padding: float = Field(500.0, ge=0, description="raw around each crop, nm")


def _elsewhere(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class RunConfig(Section):
    """config/config.yaml."""

    data_root: LocalPath = Field(description="folder of {dataset}/{dataset}.zarr")
    test_crops: PathOrUrl = Field(
        description="path or URL of the test-crop manifest, or cellmap-segmentation-challenge: the "
        "one in the official toolbox that is installed"
    )
    ground_truth: Annotated[LocalPath | None, BeforeValidator(null)] = Field(
        None, description="zarr of the test crops' truth, to score"
    )
    output: LocalPath = Field("results", description="folder of all results")
    trainings: Names = Field(description="names of files in config/training/")
    submission: Submission = Field(Submission(), description="what is submitted")
    fetch: Fetch | None = Field(None, description="data to bring; null: they are in data_root")
    predictions: dict[Name, Annotated[Elsewhere, BeforeValidator(_elsewhere)]] = Field(
        default_factory=dict,
        description="predictions made elsewhere: a name and a path with {dataset}, {crop}, {label},"
        " or {path: …, classes: […]}",
    )
    class_table: Annotated[PathOrUrl | None, BeforeValidator(null)] = Field(
        None,
        description="path or URL of the challenge's class table (classes.csv): a label that a "
        "training does not predict is also made of its parts; null: it is not",
    )
