"""What a run validates: which labels of which sources, at which voxel sizes, on whose crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cellmap_pipeline.config.run import PARTS
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.plan.contents import voxel_sizes
from cellmap_pipeline.plan.lineage import source_path
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.sources import AVERAGE, origin


def validation_settings(plan: Plan, name: str) -> dict[str, Any]:
    """What is scored of one of `Plan.validated`, in plain builtins.

    Returns
    -------
    By label a list: `voxel_sizes` (nm; those of the test crops that take it; none: the training's
    own), `sources` (path below the output with {dataset}, {crop} and {label}, and the parts that
    the label is made of, if any), and `trainings`, whose validation crops are taken.
    """
    if name == AVERAGE:
        labels = plan.averaged()
    elif name in plan.trainings:
        labels = {label: [[name]] for label in plan.trainings[name].classes}
        labels |= {label: [[name + PARTS]] for label in plan.parts.get(name, {})}
    else:
        rows = [row for row in plan.crop_labels if name in plan.sources(row)]
        labels = {row.label: [[name]] for row in rows}
    return {
        label: [
            {
                "voxel_sizes": voxel_sizes(
                    row
                    for row in plan.crop_labels
                    if row.label == label and _takes(plan, row, sources, name == AVERAGE)
                ),
                "sources": [
                    source_path(plan, source, label, "validation/predictions") for source in sources
                ],
                "trainings": _validating(plan, sources),
            }
            for sources in some
        ]
        for label, some in labels.items()
    }


def _takes(plan: Plan, row: CropLabel, sources: Sequence[str], averaged: bool) -> bool:
    given = plan.sources(row)
    return list(sources) == given if averaged else sources[0] in given


def _validating(plan: Plan, sources: Sequence[str]) -> list[str]:
    """The trainings among sources; of predictions made elsewhere alone, all that are used."""
    names = {origin(source) for source in sources}
    return [name for name in plan.trainings if name in names] or plan.used() or list(plan.trainings)


def validation_trainings(plan: Plan, name: str) -> list[str]:
    """The trainings whose validation crops one of `Plan.validated` is scored on."""
    if name != AVERAGE:
        return _validating(plan, [name])
    taken = {t for some in plan.averaged().values() for one in some for t in _validating(plan, one)}
    return [training for training in plan.trainings if training in taken]
