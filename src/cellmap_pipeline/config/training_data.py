"""The keys of a training's file that say which data train it, and which crops validate.

They are checked while Snakemake parses, so nothing here imports torch, zarr or pandas.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cellmap_pipeline.config.types import (
    Affects,
    Crops,
    LocalPath,
    Name,
    Names,
    Section,
    VoxelSize,
    affects,
)


class TrainingData(Section):
    """The keys of `Training` that concern its data."""

    classes: Names = Field(
        description="labels to predict",
        json_schema_extra=affects(Affects.DATASPLIT, Affects.NETWORK, Affects.LEARNING),
    )
    voxel_size: VoxelSize = Field(
        description="nm; one number or [z, y, x]",
        json_schema_extra=affects(Affects.DATASPLIT, Affects.NETWORK, Affects.LEARNING),
    )
    serves: list[VoxelSize] | None = Field(
        None,
        description="voxel sizes of the test crops that it predicts; null: all",
        json_schema_extra=affects(Affects.PLAN),
    )
    datasets: Names | None = Field(
        None,
        description="train on these datasets only; null: all",
        json_schema_extra=affects(Affects.DATASPLIT),
    )
    crops: Crops | None = Field(
        None,
        description="train on these crops only; null: all",
        json_schema_extra=affects(Affects.DATASPLIT),
    )
    datasplit: LocalPath | None = Field(
        None,
        description="path of your own datasplit CSV; null: this training's part of the run's "
        "`split`",
        json_schema_extra=affects(Affects.DATASPLIT_FILE),
    )
    validation: Literal["held_out", "folds", "none"] = Field(
        "held_out",
        description="`held_out`: validate on the crops that the run's `split` holds out; `folds`: "
        "train a network per fold of `split.folds`, each validates on its fold, and their mean "
        "predicts the test crops; `none`: train on all crops, and export the last weights",
        json_schema_extra=affects(Affects.DATASPLIT, Affects.LEARNING),
    )
    normalize: Literal["range", "zscore", "percentile"] = Field(
        "range",
        description="raw as networks get it: `range`: the range of the stored type as -2..2; "
        "`zscore`: mean 0 and standard deviation 1; `percentile`: the percentiles 0.5 and 99.5 as "
        "-2 and 2; the latter two by the statistics of each raw volume",
        json_schema_extra=affects(Affects.NETWORK, Affects.LEARNING),
    )
    settings_from: Name | None = Field(
        None,
        description="for `validation: none`: the training whose post-processing and validation "
        "scores stand for this one's",
        json_schema_extra=affects(Affects.LABELS),
    )

    def takes_crop(self, dataset: str, crop: int) -> bool:
        """Whether `datasets` and `crops` let this training use a labeled crop."""
        in_dataset = self.datasets is None or dataset in self.datasets
        return in_dataset and (self.crops is None or crop in self.crops)

    @model_validator(mode="after")
    def _consistent_data(self) -> TrainingData:
        if self.settings_from and self.validation != "none":
            raise ValueError(
                "`settings_from` needs `validation: none`: otherwise settings are tuned"
            )
        if self.validation == "folds" and self.datasplit:
            raise ValueError(
                "`validation: folds` takes the run's folds, so leave `datasplit` out, or set "
                "`validation: held_out`"
            )
        return self
