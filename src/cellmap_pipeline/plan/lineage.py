"""The sources of a label, the predictions that each provides, and the settings behind them."""

from __future__ import annotations

from typing import Any

from cellmap_pipeline.config.stages import inference_settings, training_lineage
from cellmap_pipeline.crop_label import CropLabel, row_settings
from cellmap_pipeline.plan.contents import caps_in_test_crops_nm
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.sources import AVERAGE, named_sources, origin
from cellmap_pipeline.run.resume import fingerprint_of


def label_parts(plan: Plan, source: str, label: str) -> list[str]:
    """The parts that a source composes a label of; none where it predicts the label itself."""
    name = origin(source)
    return plan.parts[name][label] if source != name else []


def choice_for(plan: Plan, row: CropLabel) -> str:
    """How the sources of a row's label are used: `best` of them, or their `average`."""
    select = plan.config.submission.select
    averaged = select == AVERAGE or bool(named_sources(row, select))
    return AVERAGE if averaged and len(plan.sources(row)) > 1 else "best"


def prediction_paths(plan: Plan, row: CropLabel) -> dict[str, list[str]]:
    """By source of a row, the paths of its predictions: one, or those of the label's parts."""
    paths = {}
    for source in plan.sources(row):
        name = origin(source)
        if name in plan.config.predictions:
            pattern = plan.config.predictions[name].path
        else:
            pattern = f"{plan.paths.predictions(name)}/{{label}}"
        paths[source] = [
            pattern.format(dataset=row.dataset, crop=row.crop, label=label)
            for label in label_parts(plan, source, row.label) or [row.label]
        ]
    return paths


def network_lineage(plan: Plan, name: str) -> str:
    """Hash all settings that the checkpoints of a training depend on, and those of its teacher."""
    own = training_lineage(plan.trainings[name], plan.split_settings(name))
    teacher = plan.teacher_of(name)
    if teacher is None:
        return own
    inference = inference_settings(plan.trainings[teacher])
    return fingerprint_of([own, network_lineage(plan, teacher), inference])


def tuned_lineage(plan: Plan, name: str) -> str:
    """Hash all settings that the tuned settings and scores of a training depend on."""
    training = plan.trainings[name]
    return fingerprint_of([network_lineage(plan, name), inference_settings(training)])


def label_lineage(plan: Plan, row: CropLabel) -> str:
    """Hash all settings that the final label of a row depends on."""
    sources: dict[str, Any] = {}
    for source in plan.sources(row):
        name = origin(source)
        if name in plan.trainings:
            training = plan.trainings[name]
            user_settings = training.postprocess.get(row.label, {})
            parts = label_parts(plan, source, row.label)
            networks = network_lineage(plan, name)
            made: list[Any] = [networks, inference_settings(training), user_settings]
            if parts:
                made.append(parts)
            if (tuned := plan.settings_origin(name)) != name:
                made.append(tuned_lineage(plan, tuned))
            sources[source] = made
        else:
            sources[source] = plan.config.predictions[name].path
    return fingerprint_of(
        {
            "sources": sources,
            "choice": choice_for(plan, row),
            "row": row_settings(row),
            "rules": plan.config.scoring.rules,
            "caps_nm": caps_in_test_crops_nm(plan, row.label, row.grid.voxel_size),
        }
    )
