"""The configuration of a run: what is allowed, with ranges and defaults.

Read while Snakemake parses, so nothing here imports torch, zarr or pandas.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from cellmap_pipeline.config.types import (
    Crops,
    Image,
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
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.rules.registry import NEWEST_RULES, RULES, rules_named

# Suffix of a source that composes a label from its parts.
PARTS = ":parts"


def _source(value: str) -> str:
    one_name(value.removesuffix(PARTS))
    return value


SourceName = Annotated[str, AfterValidator(_source)]
Sources = SourceName | Annotated[list[SourceName], Field(min_length=1), AfterValidator(unique)]
BySize = dict[SizeKey, Sources]
Choice = Sources | Annotated[BySize, Field(min_length=1), AfterValidator(no_size_twice)]


class Submission(Section):
    """The labels that are submitted, and the source of each."""

    crops: Literal["all"] | Crops = Field("all", description="test crops")
    classes: Literal["all"] | Names = Field("all", description="labels")
    select: Literal["best", "average"] | Annotated[dict[Name, Choice], Field(min_length=1)] = Field(
        "best",
        description="per label and voxel size the source with the best validation score, the "
        "average of all, or a map label: source (a training, `training:parts` for a label composed "
        "of parts, or a name in `predictions`), [source, source] to average these, or {nm: source}",
    )
    missing: Literal["leave_out", "empty"] = Field(
        "leave_out", description="labels that no source provides: left out, or written empty"
    )


class ExternalPredictions(Section):
    """Predictions that another tool made."""

    path: Template = Field(description="path with {dataset}, {crop} and {label}")
    classes: Literal["all"] | Names = Field("all", description="labels that they contain")


class Split(Section):
    """The split of all labeled crops of `data_root`, of which each training takes its part."""

    validation_fraction: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="fraction that is held out to validate: of the crops, of those of each "
        "dataset, and of the labeled volume of each class",
    )
    folds: Annotated[int, Field(ge=2, le=20)] | None = Field(
        None, description="number of folds, for trainings with `validation: folds`"
    )
    by: Literal["crop", "dataset"] = Field(
        "crop", description="what is held out as a whole: crops, or all crops of a dataset"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the search for a balanced split")


class Fetch(Section):
    """Data that are fetched from the challenge's bucket before anything else runs."""

    crops: PathOrUrl = Field(
        description="path or URL of the challenge's crop table (manifest.csv), which says where "
        "each crop's labels and raw lie"
    )
    padding: Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(null)] = Field(
        None,
        description="raw that is fetched around each crop, nm; null: all that the trainings read",
    )


def _date_as_text(value: Any) -> Any:
    # YAML reads a name of rules such as 2026-06-30 as a date.
    return value.isoformat() if isinstance(value, date) else value


def _known_rules(name: str) -> str:
    try:
        return rules_named(name).name
    except InputError as error:
        raise ValueError(str(error)) from None


class Scoring(Section):
    """The official evaluator's rules by which the run tunes, selects and scores."""

    rules: Annotated[str, BeforeValidator(_date_as_text), AfterValidator(_known_rules)] = Field(
        NEWEST_RULES,
        description=f"name of the rules: {', '.join(RULES)}; default: the newest in force",
    )


def _as_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class RunConfig(Section):
    """config/config.yaml."""

    data_root: LocalPath = Field(description="folder of {dataset}/{dataset}.zarr")
    test_crops: PathOrUrl = Field(
        description="path or URL of the manifest of test crops, or cellmap-segmentation-challenge: "
        "the one in the installed official toolbox"
    )
    ground_truth: Annotated[LocalPath | None, BeforeValidator(null)] = Field(
        None, description="zarr with the ground truth of the test crops, to score against"
    )
    output: LocalPath = Field("results", description="folder of all results")
    trainings: Names = Field(description="names of files in config/training/")
    split: Split = Field(Split(), description="which labeled crops validate")
    submission: Submission = Field(Submission(), description="what is submitted")
    scoring: Scoring = Field(Scoring(), description="the rules of the official evaluator")
    fetch: Fetch | None = Field(None, description="data to fetch; null: all are in data_root")
    predictions: dict[Name, Annotated[ExternalPredictions, BeforeValidator(_as_path)]] = Field(
        default_factory=dict,
        description="external predictions: a name and a path with {dataset}, {crop}, {label}, or "
        "{path: …, classes: […]}",
    )
    class_table: Annotated[PathOrUrl | None, BeforeValidator(null)] = Field(
        None,
        description="path or URL of the challenge's class table (classes.csv): a label that a "
        "training does not predict is composed of its parts, and trainings with `hierarchy` learn "
        "how classes include and exclude each other; null: neither",
    )
    container: Annotated[Image | None, BeforeValidator(null)] = Field(
        None,
        description="path or URI (docker://…) of the image that jobs run in with `--sdm "
        "apptainer`; null: none",
    )
