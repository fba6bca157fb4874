"""Problems with the sources that a configuration chooses for labels.

Without this check such a choice would be ignored, or would fail after all networks are trained.
It runs while Snakemake parses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES, auxiliary_kinds
from cellmap_pipeline.errors import did_you_mean
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.sources import format_voxel_size, origin, voxel_size_key
from cellmap_pipeline.segmentation.methods import METHODS


def choice_problems(plan: Plan) -> Iterator[str]:
    """Yield a line per problem with `predictions` and `submission.select`."""
    labels = sorted({row.label for row in plan.manifest_rows})
    for name, external in plan.config.predictions.items():
        for label in external.classes if external.classes != "all" else ():
            if label not in labels:
                yield f"predictions.{name}.classes: {_unrequested(plan, label, labels)}"
    select = plan.config.submission.select
    for label, choice in select.items() if isinstance(select, dict) else ():
        problems = [
            problem for name in _names_in(choice) if (problem := _no_provider(plan, label, name))
        ]
        if label not in labels:
            problems.append(_unrequested(plan, label, labels))
        elif isinstance(choice, dict):
            problems += _unused_sizes(plan, label, choice)
        yield from (f"submission.select.{label}: {problem}" for problem in problems)
    for label, averages in plan.averages_by_label().items():
        for sources in averages:
            yield from _missing_channels(plan, label, sources)


def method_and_channels(plan: Plan, label: str, sources: Sequence[str]) -> tuple[str, str] | None:
    """The configured method for an average, and the auxiliary channels it needs from every source.

    Parameters
    ----------
    plan
        The plan of a run.
    label
        The label that is averaged.
    sources
        Names of the sources that are averaged; the first one's settings apply.

    Returns
    -------
    The method and a key of `channels.AUXILIARY_SUFFIXES`; None if it needs no such channels.
    """
    training = plan.trainings.get(origin(sources[0]))
    method = training.postprocess.get(label, {}).get("method", "") if training else ""
    kind = METHODS[method].auxiliary if method in METHODS else None
    return (method, kind) if kind else None


def _unrequested(plan: Plan, label: str, labels: Sequence[str]) -> str:
    suggestion = did_you_mean(label, labels)
    return (
        f"no crop of {plan.config.test_crops} asks for {label!r}{suggestion}, only for "
        f"{', '.join(labels)}: correct or remove it"
    )


def _names_in(choice: Any) -> list[str]:
    if isinstance(choice, str):
        return [choice]
    parts = choice.values() if isinstance(choice, dict) else choice
    return [name for part in parts for name in _names_in(part)]


def _no_provider(plan: Plan, label: str, source: str) -> str | None:
    """Why a source cannot provide a label, or None."""
    name = origin(source)
    if name in plan.config.predictions and name == source:
        classes = plan.config.predictions[name].classes
        if classes == "all" or label in classes:
            return None
        return f"predictions {name!r} do not contain it (their classes: {', '.join(classes)})"
    if name not in plan.trainings:
        known = ", ".join([*plan.trainings, *plan.config.predictions])
        return f"{source!r} is not among trainings or predictions ({known})"
    predicted = ", ".join(plan.trainings[name].classes)
    if name == source and label not in plan.trainings[name].classes:
        return f"training {name!r} does not predict it (its classes: {predicted})"
    # Parts are resolved only for labels that are submitted.
    submitted = any(row.label == label for row in plan.crop_labels)
    if name != source and submitted and label not in plan.parts.get(name, {}):
        return (
            f"training {name!r} does not predict all parts of it (its classes: {predicted}; "
            f"class_table: {plan.config.class_table})"
        )
    return None


def _unused_sizes(plan: Plan, label: str, choice: Mapping[str, Any]) -> Iterator[str]:
    """Voxel sizes that no crop uses, also none of the manifest that is not submitted."""
    rows = [row for row in plan.manifest_rows if row.label == label]
    used = {voxel_size_key(row, choice) for row in rows}
    sizes = ", ".join(map(format_voxel_size, sorted({row.grid.voxel_size for row in rows})))
    for key in choice:
        if key not in used:
            yield (
                f"no crop of {plan.config.test_crops} uses the choice for {key} nm: they ask for "
                f"{label} at {sizes} nm: correct or remove it"
            )


def _missing_channels(plan: Plan, label: str, sources: Sequence[str]) -> Iterator[str]:
    """Trainings in an average that do not predict the channels that its method needs.

    Those of external predictions are files, which the check of the inputs looks for.
    """
    needed = method_and_channels(plan, label, sources)
    if needed is None:
        return
    method, kind = needed
    for source in sources:
        name = origin(source)
        channels = plan.trainings[name].channels if name in plan.trainings else None
        if channels is None or (source == name and kind in auxiliary_kinds(label, channels)):
            continue
        missing = " and ".join(label + suffix for suffix in AUXILIARY_SUFFIXES[kind])
        yield (
            f"submission.select: {label}: {', '.join(sources)} are averaged by `method: {method}`, "
            f"which training {origin(sources[0])!r} sets, but {source!r} does not predict "
            f"{missing}: train it with `targets: {{{label}: [{kind}]}}`, leave it out of the "
            "average, or set another method"
        )
