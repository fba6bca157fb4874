"""Which labels of which sources are validated, at which voxel sizes, on whose crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellmap_pipeline.config.run import PARTS
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Vector
from cellmap_pipeline.plan.contents import caps_in_test_crops_nm, voxel_sizes
from cellmap_pipeline.plan.lineage import label_parts
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.sources import AVERAGE, origin


@dataclass(frozen=True)
class PredictionPattern:
    """Where a source's predictions of validation crops lie.

    Attributes
    ----------
    paths
        With `{dataset}`, `{crop}` and `{label}`; one for each fold of a training, of which one has
        a crop.
    parts
        Parts that the label is composed of; none where it is predicted itself.
    """

    paths: Sequence[str]
    parts: Sequence[str] = ()


@dataclass(frozen=True)
class ValidationTask:
    """A label of a source, or of an average of sources, that is tuned and scored.

    Attributes
    ----------
    voxel_sizes
        In nm (z, y, x), those of the test crops that use it; none: the training's own.
    caps_nm
        By voxel size, the largest distance that is measured in each test crop of an instance label;
        empty for a semantic label.
    sources
        Predictions whose mean is taken.
    trainings
        Names of the trainings on whose validation crops it is scored.
    """

    voxel_sizes: Sequence[Sequence[float]]
    caps_nm: Sequence[Sequence[float]]
    sources: Sequence[PredictionPattern]
    trainings: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """The task as JSON-serializable builtins."""
        return {
            "voxel_sizes": [list(size) for size in self.voxel_sizes],
            "caps_nm": [list(caps) for caps in self.caps_nm],
            "sources": [(list(source.paths), list(source.parts)) for source in self.sources],
            "trainings": list(self.trainings),
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> ValidationTask:
        """The task that `to_dict` returned."""
        sources = [PredictionPattern(paths, parts) for paths, parts in settings["sources"]]
        sizes, caps_nm = settings["voxel_sizes"], settings["caps_nm"]
        return cls(sizes, caps_nm, sources, settings["trainings"])


def validation_tasks(plan: Plan, source: str) -> dict[str, list[ValidationTask]]:
    """By label, the tasks of one of `Plan.validated_sources`."""
    if source == AVERAGE:
        labels = {
            label: [found for names in lists if (found := _validated(plan, names))]
            for label, lists in plan.averages_by_label().items()
        }
    elif source in plan.trainings:
        labels = {label: [[source]] for label in plan.trainings[source].classes}
        labels |= {label: [[source + PARTS]] for label in plan.parts.get(source, {})}
    else:
        rows = [row for row in plan.crop_labels if source in plan.sources(row)]
        labels = {row.label: [[source]] for row in rows}
    return {
        label: [_task(plan, label, names, source == AVERAGE) for names in lists]
        for label, lists in labels.items()
        if lists
    }


def validation_settings(plan: Plan, source: str) -> dict[str, list[dict[str, Any]]]:
    """`validation_tasks` as JSON-serializable builtins."""
    return {
        label: [task.to_dict() for task in tasks]
        for label, tasks in validation_tasks(plan, source).items()
    }


def validation_trainings(plan: Plan, source: str) -> list[str]:
    """The trainings on whose validation crops one of `Plan.validated_sources` is scored."""
    if source != AVERAGE:
        return _validating(plan, [source])
    taken = {
        training
        for lists in plan.averages_by_label().values()
        for names in lists
        for training in _validating(plan, _validated(plan, names))
    }
    return [training for training in plan.trainings if training in taken]


def predicting_trainings(plan: Plan, source: str) -> list[str]:
    """The trainings whose predictions make up one of `Plan.validated_sources`."""
    names = {source}
    if source == AVERAGE:
        lists = [names for lists in plan.averages_by_label().values() for names in lists]
        names = {origin(name) for sources in lists for name in _validated(plan, sources)}
    return [training for training in plan.trainings if training in names]


def ground_truth_sizes(plan: Plan, training: str) -> dict[str, list[Vector]]:
    """By label, the voxel sizes (nm) at which validation reads ground truth of a training's crops.

    Validation takes the level nearest to each (`io.levels.nearest_level`).
    """
    found: dict[str, dict[Vector, None]] = {}
    for source in plan.validated_sources():
        for label, tasks in validation_tasks(plan, source).items():
            for task in tasks:
                if training in task.trainings:
                    sizes = task.voxel_sizes or [plan.trainings[source].voxel_size]
                    of_label = found.setdefault(label, {})
                    of_label |= {(z, y, x): None for z, y, x in sizes}
    return {label: list(sizes) for label, sizes in found.items()}


def _task(plan: Plan, label: str, names: Sequence[str], averaged: bool) -> ValidationTask:
    rows = [
        row for row in plan.crop_labels if row.label == label and _uses(plan, row, names, averaged)
    ]
    patterns = [_pattern(plan, name, label) for name in names]
    sizes = voxel_sizes(rows)
    caps_nm = [caps_in_test_crops_nm(plan, label, size) for size in sizes]
    return ValidationTask(sizes, caps_nm, patterns, _validating(plan, names))


def _uses(plan: Plan, row: CropLabel, names: Sequence[str], averaged: bool) -> bool:
    """Whether a row's label is the average of these sources, or may come from the first of them.

    A source stands for those that take their settings from it, too.
    """
    sources = _standing_for(plan, plan.sources(row))
    return list(names) == _validated(plan, sources) if averaged else names[0] in sources


def _pattern(plan: Plan, source: str, label: str) -> PredictionPattern:
    name = origin(source)
    if name in plan.config.predictions:
        return PredictionPattern([plan.config.predictions[name].path])
    folders = map(plan.paths.validation_predictions, plan.networks_of(name))
    paths = [f"{folder}/{{dataset}}/crop{{crop}}/{{label}}" for folder in folders]
    return PredictionPattern(paths, label_parts(plan, source, label))


def _standing_for(plan: Plan, sources: Sequence[str]) -> list[str]:
    """The sources whose settings and scores stand for these ones'."""
    return [
        source.replace(origin(source), plan.settings_origin(origin(source)), 1)
        for source in sources
    ]


def _validated(plan: Plan, sources: Sequence[str]) -> list[str]:
    """The sources whose predictions of validation crops stand for these ones', each once."""
    found = _standing_for(plan, [source for source in sources if plan.is_validated(origin(source))])
    return list(dict.fromkeys(found))


def _validating(plan: Plan, sources: Sequence[str]) -> list[str]:
    """The trainings among the sources; for external predictions alone, all with validation."""
    names = {origin(source) for source in sources}
    return [name for name in plan.trainings if name in names] or [
        name
        for name in plan.contributing_trainings() or list(plan.trainings)
        if plan.trainings[name].validation != "none"
    ]
