"""The plan of a run: which training predicts which label of which test crop.

It follows from the configuration and the manifest alone, so that the whole DAG is known while
Snakemake parses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from cellmap_pipeline.config.run import PARTS, RunConfig
from cellmap_pipeline.config.sections import Teach
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.fetching.request import FetchRequest
from cellmap_pipeline.plan.folds import fold_network, fold_of, training_of
from cellmap_pipeline.plan.paths import ResultPaths
from cellmap_pipeline.plan.sources import AVERAGE, named_sources, origin


@dataclass(frozen=True)
class Plan:
    """A run's configuration, its trainings and the labels of test crops that it submits.

    Attributes
    ----------
    config
        The run's configuration.
    trainings
        Trainings by name, in the order of the configuration.
    crop_labels
        Rows of the manifest that are submitted.
    manifest
        Path of the manifest.
    manifest_rows
        All rows of the manifest.
    parts
        By training and label that the training does not predict, its classes that compose the
        label.
    fetched
        Fetch requests by crop.
    """

    config: RunConfig
    trainings: dict[str, Training]
    crop_labels: list[CropLabel]
    manifest: Path
    manifest_rows: list[CropLabel] = field(default_factory=list)
    parts: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    fetched: dict[int, FetchRequest] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The folder of all results."""
        return Path(self.config.output)

    @property
    def paths(self) -> ResultPaths:
        """The paths of all results."""
        return ResultPaths(self.output)

    def sources(self, row: CropLabel) -> list[str]:
        """Names of the sources that can provide this row's label.

        These are trainings, `NAME:parts` for labels composed of a training's parts, and external
        predictions.
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
            for name, external in self.config.predictions.items()
            if external.classes == "all" or row.label in external.classes
        ]

    def covered_rows(self) -> list[CropLabel]:
        """Rows that some source can provide."""
        return [row for row in self.crop_labels if self.sources(row)]

    def rows_to_segment(self) -> list[CropLabel]:
        """Rows that are written: covered ones, and empty ones where `missing: empty` wants them."""
        if self.config.submission.missing == "empty":
            return self.crop_labels
        return self.covered_rows()

    def rows_by_crop(self, training: str) -> dict[int, list[CropLabel]]:
        """By crop, the rows that `training` predicts; parts of a label lie on the label's grid."""
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

    def averages_by_label(self) -> dict[str, list[list[str]]]:
        """By label, the lists of sources that are averaged; they may differ between voxel sizes."""
        select = self.config.submission.select
        found: dict[str, list[list[str]]] = {}
        for row in self.crop_labels:
            sources = self.sources(row)
            averaged = select == AVERAGE or named_sources(row, select)
            if len(sources) > 1 and averaged and sources not in found.get(row.label, []):
                found.setdefault(row.label, []).append(sources)
        return found

    def validated_sources(self) -> list[str]:
        """Sources that are scored on validation crops.

        These are contributing trainings with validation crops, external predictions that provide
        some label, and `average` where predictions are averaged.
        """
        providing = {source for row in self.crop_labels for source in self.sources(row)}
        external = [name for name in self.config.predictions if name in providing]
        trainings = [
            name
            for name in self.contributing_trainings()
            if self.trainings[name].validation != "none"
        ]
        averaged = {
            name for lists in self.averages_by_label().values() for names in lists for name in names
        }
        average = [AVERAGE] if any(self.is_validated(origin(name)) for name in averaged) else []
        return trainings + external + average

    @property
    def test_datasets(self) -> list[str]:
        """Datasets of the test crops of the manifest, also of those that are not submitted."""
        return sorted({row.dataset for row in self.manifest_rows})

    def dataset_by_crop(self) -> dict[int, str]:
        """The dataset of each test crop."""
        return {row.crop: row.dataset for row in self.crop_labels}

    def active_trainings(self) -> list[str]:
        """Trainings that contribute to the submission, and those that teach them."""
        contributing = self.contributing_trainings()
        active = {*contributing, *chain.from_iterable(map(self.teachers, contributing))}
        return [name for name in self.trainings if name in active]

    def contributing_trainings(self) -> list[str]:
        """Trainings that predict something that is submitted, and those that tune for them."""
        predicting = [name for name in self.trainings if self.rows_by_crop(name)]
        contributing = {*predicting, *map(self.settings_origin, predicting)}
        return [name for name in self.trainings if name in contributing]

    def teachers(self, training: str) -> list[str]:
        """The training that teaches this one, the one that teaches that, and so on."""
        found: list[str] = []
        name = training
        while (teach := self._teach(name)) and teach.teacher not in found:
            name = teach.teacher
            found.append(name)
        return found

    def teacher_of(self, network: str) -> str | None:
        """The network that teaches a network, of the same fold if there are folds; or None."""
        teach = self._teach(training_of(network))
        fold = fold_of(network)
        if teach is None:
            return None
        return teach.teacher if fold is None else fold_network(teach.teacher, fold)

    def _teach(self, training: str) -> Teach | None:
        """How a training is taught; None if it is not, or if it predicts with a given file."""
        settings = self.trainings.get(training)
        is_trained = settings and settings.inference.checkpoint in ("best", "last")
        return settings.teach if settings and is_trained else None

    def networks_of(self, training: str) -> list[str]:
        """Names of the networks of a training: its own, or one per fold."""
        folds = self.config.split.folds
        if self.trainings[training].validation != "folds" or folds is None:
            return [training]
        return [fold_network(training, fold) for fold in range(folds)]

    def split_settings(self, training: str) -> dict[str, Any]:
        """The settings of the run's split that a training depends on; none without its crops."""
        settings, split = self.trainings[training], self.config.split
        if settings.datasplit is not None or settings.validation == "none":
            return {}
        folds = settings.validation == "folds"
        size = (
            {"folds": split.folds} if folds else {"validation_fraction": split.validation_fraction}
        )
        return size | {"by": split.by, "seed": split.seed}

    def settings_origin(self, source: str) -> str:
        """The training whose tuned settings and scores stand for a source's: mostly its own.

        A training without validation crops and without `settings_from` has neither.
        """
        # Before a circle is refused, it must end, too.
        for _ in self.trainings:
            if source in self.trainings and self.trainings[source].settings_from:
                source = str(self.trainings[source].settings_from)
        return source

    def is_validated(self, source: str) -> bool:
        """Whether a training or external predictions are scored on validation crops."""
        origin = self.settings_origin(source)
        return origin not in self.trainings or self.trainings[origin].validation != "none"
