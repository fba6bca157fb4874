"""What a run makes: which training predicts which label of which test crop.

Known from the configuration and the manifest alone, so that the whole DAG is known while
Snakemake parses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cellmap_pipeline.config.run import PARTS, RunConfig
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.plan.sources import AVERAGE, named_sources


@dataclass(frozen=True)
class Plan:
    """A run's configuration, its trainings and the labels of test crops that it submits."""

    config: RunConfig
    trainings: dict[str, Training]
    crop_labels: list[CropLabel]
    manifest: Path
    # All of the manifest, also what is not submitted.
    manifest_rows: list[CropLabel] = field(default_factory=list)
    # By training and label that it does not predict, those that make it together.
    parts: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    # By crop, what is to be brought of it (`crop_table.crops_to_fetch`).
    fetched: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The folder of all results."""
        return Path(self.config.output)

    def sources(self, row: CropLabel) -> list[str]:
        """What gives the label of this row: trainings, parts that one predicts (`NAME:parts`),
        and predictions made elsewhere.
        """
        named = named_sources(row, self.config.submission.select)
        if named:
            return named
        found = []
        for name, training in self.trainings.items():
            if not training.serves_grid(row.grid):
                continue
            if row.label in training.classes:
                found.append(name)
            elif row.label in self.parts.get(name, {}):
                found.append(name + PARTS)
        return found + [
            name
            for name, elsewhere in self.config.predictions.items()
            if elsewhere.classes == "all" or row.label in elsewhere.classes
        ]

    def given(self) -> list[CropLabel]:
        """Rows that some source gives."""
        return [row for row in self.crop_labels if self.sources(row)]

    def segmented(self) -> list[CropLabel]:
        """Rows that are written: those that are given, and empty ones where these are wanted."""
        if self.config.submission.missing == "empty":
            return self.crop_labels
        return self.given()

    def predicted(self, training: str) -> dict[int, list[CropLabel]]:
        """By crop, the rows that `training` predicts; parts of a label lie on its grid."""
        crops: dict[int, dict[str, CropLabel]] = {}
        for row in self.crop_labels:
            sources = self.sources(row)
            if training in sources:
                crops.setdefault(row.crop, {})[row.label] = row
        for row in self.crop_labels:
            if training + PARTS in self.sources(row):
                for part in self.parts[training][row.label]:
                    of_crop = crops.setdefault(row.crop, {})
                    of_crop.setdefault(part, replace(row, label=part))
        return {crop: list(rows.values()) for crop, rows in crops.items()}

    def averaged(self) -> dict[str, list[list[str]]]:
        """By label, the sources that are averaged: others, maybe, at other voxel sizes."""
        select = self.config.submission.select
        found: dict[str, list[list[str]]] = {}
        for row in self.crop_labels:
            sources = self.sources(row)
            averaged = select == AVERAGE or named_sources(row, select)
            if len(sources) > 1 and averaged and sources not in found.get(row.label, []):
                found.setdefault(row.label, []).append(sources)
        return found

    def validated(self) -> list[str]:
        """What is scored on validation crops: trainings, predictions made elsewhere, averages."""
        given = {source for row in self.crop_labels for source in self.sources(row)}
        elsewhere = [name for name in self.config.predictions if name in given]
        return self.used() + elsewhere + ([AVERAGE] if self.averaged() else [])

    def dataset_of(self) -> dict[int, str]:
        """The dataset of each test crop."""
        return {row.crop: row.dataset for row in self.crop_labels}

    def used(self) -> list[str]:
        """Trainings that predict something that is submitted."""
        return [name for name in self.trainings if self.predicted(name)]
