"""What the label of a row depends on: the sources that give it, and all of their settings."""

from __future__ import annotations

from typing import Any

from cellmap_pipeline.config.stages import inference_settings, training_lineage
from cellmap_pipeline.crop_label import CropLabel, row_settings
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.sources import AVERAGE, named_sources, origin
from cellmap_pipeline.run.resume import fingerprint_of


def source_path(plan: Plan, source: str, label: str, folder: str) -> tuple[str, list[str]]:
    """Where a source's predictions lie, with {dataset}, {crop}, {label}, and the label's parts."""
    name = origin(source)
    if name in plan.config.predictions:
        return plan.config.predictions[name].path, []
    parts = plan.parts[name][label] if source != name else []
    return f"{plan.output / name / folder}/{{dataset}}/crop{{crop}}/{{label}}", parts


def label_lineage(plan: Plan, row: CropLabel) -> str:
    """A hash of all settings that the final label of a row depends on."""
    sources: dict[str, Any] = {}
    for source in plan.sources(row):
        name = origin(source)
        if name in plan.trainings:
            training = plan.trainings[name]
            own = training.postprocess.get(row.label, {})
            parts = plan.parts[name][row.label] if source != name else []
            made = [training_lineage(training), inference_settings(training), own]
            sources[source] = [*made, parts] if parts else made
        else:
            sources[source] = plan.config.predictions[name].path
    choice = choice_for(plan, row)
    return fingerprint_of({"sources": sources, "choice": choice, "row": row_settings(row)})


def choice_for(plan: Plan, row: CropLabel) -> str:
    """How a row's label is chosen among its sources: `best`, or `average`."""
    select = plan.config.submission.select
    averaged = select == AVERAGE or bool(named_sources(row, select))
    return AVERAGE if averaged and len(plan.sources(row)) > 1 else "best"


def label_sources(plan: Plan, row: CropLabel) -> dict[str, list[str]]:
    """By source of a row, the paths of its predictions: one, or those of its parts."""
    paths = {}
    for source in plan.sources(row):
        path, parts = source_path(plan, source, row.label, "predictions")
        paths[source] = [
            path.format(dataset=row.dataset, crop=row.crop, label=label)
            for label in parts or [row.label]
        ]
    return paths
