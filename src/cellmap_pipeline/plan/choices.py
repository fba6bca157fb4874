"""What is wrong with the sources that a configuration chooses for labels: it would be ignored, or
fail after all networks are trained.

Looked at while Snakemake parses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cellmap_pipeline.channels import FURTHER, further
from cellmap_pipeline.errors import did_you_mean
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.plan.sources import in_words, key_of, origin
from cellmap_pipeline.segmentation.methods import NEEDS


def wrong_choices(plan: Plan) -> Iterator[str]:
    """What is wrong with `predictions` and `submission.select`, a line each."""
    labels = sorted({row.label for row in plan.manifest_rows})
    for name, elsewhere in plan.config.predictions.items():
        for label in elsewhere.classes if elsewhere.classes != "all" else ():
            if label not in labels:
                yield f"predictions.{name}.classes: {_not_asked_for(plan, label, labels)}"
    select = plan.config.submission.select
    for label, choice in select.items() if isinstance(select, dict) else ():
        problems = [
            problem for name in _names_in(choice) if (problem := _cannot_give(plan, label, name))
        ]
        if label not in labels:
            problems.append(_not_asked_for(plan, label, labels))
        elif isinstance(choice, dict):
            problems += _idle_sizes(plan, label, choice)
        yield from (f"submission.select.{label}: {problem}" for problem in problems)
    for label, averages in plan.averaged().items():
        for sources in averages:
            yield from _lacking_channels(plan, label, sources)


def needed_by(plan: Plan, label: str, sources: Sequence[str]) -> tuple[str, str] | None:
    """The user's method for an average of `sources`, if any, and the further channels (a key of
    `classes.FURTHER`) that it takes of each; None where it takes none.
    """
    training = plan.trainings.get(origin(sources[0]))
    method = training.postprocess.get(label, {}).get("method", "") if training else ""
    return (method, NEEDS[method]) if method in NEEDS else None


def _not_asked_for(plan: Plan, label: str, labels: Sequence[str]) -> str:
    near = did_you_mean(label, labels)
    return (
        f"no crop of {plan.config.test_crops} asks for {label!r}{near}, only for "
        f"{', '.join(labels)}: correct or remove it"
    )


def _names_in(choice: Any) -> list[str]:
    if isinstance(choice, str):
        return [choice]
    parts = choice.values() if isinstance(choice, dict) else choice
    return [name for part in parts for name in _names_in(part)]


def _cannot_give(plan: Plan, label: str, source: str) -> str | None:
    """Why a source cannot give a label, or None."""
    name = origin(source)
    if name in plan.config.predictions and name == source:
        there = plan.config.predictions[name].classes
        if there == "all" or label in there:
            return None
        return f"predictions {name!r} have not got it (their classes: {', '.join(there)})"
    if name not in plan.trainings:
        known = ", ".join([*plan.trainings, *plan.config.predictions])
        return f"{source!r} is not among trainings or predictions ({known})"
    classes = ", ".join(plan.trainings[name].classes)
    if name == source and label not in plan.trainings[name].classes:
        return f"training {name!r} does not predict it (its classes: {classes})"
    # What is submitted has parts; the rest is never made.
    submitted = any(row.label == label for row in plan.crop_labels)
    if name != source and submitted and label not in plan.parts.get(name, {}):
        return (
            f"training {name!r} does not predict all parts of it (its classes: {classes}; "
            f"class_table: {plan.config.class_table})"
        )
    return None


def _idle_sizes(plan: Plan, label: str, choice: Mapping[str, Any]) -> Iterator[str]:
    """Voxel sizes that no crop takes, of the whole manifest: a part of it may be submitted."""
    rows = [row for row in plan.manifest_rows if row.label == label]
    taken = {key_of(row, choice) for row in rows}
    there = sorted({row.grid.voxel_size for row in rows})
    sizes = ", ".join(map(in_words, there))
    for key in choice:
        if key not in taken:
            yield (
                f"no crop of {plan.config.test_crops} takes the choice for {key} nm: they ask for "
                f"{label} at {sizes} nm: correct or remove it"
            )


def _lacking_channels(plan: Plan, label: str, sources: Sequence[str]) -> Iterator[str]:
    """Trainings in an average that do not predict what the user's method for it takes; those of
    predictions made elsewhere are files to look for.
    """
    needed = needed_by(plan, label, sources)
    if needed is None:
        return
    method, kind = needed
    for source in sources:
        name = origin(source)
        channels = plan.trainings[name].channels if name in plan.trainings else None
        if channels is None or (source == name and kind in further(label, channels)):
            continue
        lacking = " and ".join(label + suffix for suffix in FURTHER[kind])
        yield (
            f"submission.select: {label}: {', '.join(sources)} are averaged by `method: {method}`, "
            f"which training {origin(sources[0])!r} sets, but {source!r} does not predict "
            f"{lacking}: train it with `targets: {{{label}: [{kind}]}}`, leave it out of the "
            "average, or set another method"
        )
