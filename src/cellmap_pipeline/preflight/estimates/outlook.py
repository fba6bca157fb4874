"""Reachable score and approximate duration of a run, before it starts: `snakemake plan`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cellmap_pipeline.config.stages import DATASPLIT_KEYS
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.datasplit import DatasplitSettings, make_crops
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.preflight.estimates.prediction_cost import (
    describe_cost,
    format_hours,
    prediction_cost,
    taught_rows,
    voxel_size_warning,
)
from cellmap_pipeline.preflight.estimates.training_cost import (
    FORWARD_PASSES_PER_STEP,
    GPUS,
    hours_left,
    network_cost,
    patch_seconds,
    training_hours,
)
from cellmap_pipeline.preflight.estimates.tuning_cost import tuning_hours
from cellmap_pipeline.preflight.mirroring import mirroring_warnings
from cellmap_pipeline.scoring.rules.registry import rules_named
from cellmap_pipeline.scoring.upper_bound import score_upper_bound

GIB = 2**30


def outlook_text(plan: Plan) -> str:
    """Describe the outlook of all trainings and of the submission."""
    lines = []
    for name, training in plan.trainings.items():
        lines += [*_training_outlook(plan, name, training), ""]
    covered = set(plan.covered_rows())
    everything = plan.manifest_rows
    rules = rules_named(plan.config.scoring.rules)
    bound = score_upper_bound(everything, covered, rules)
    lines.append(
        f"submission: {len(covered)} of the manifest's {len(everything)} labels. If perfect, they "
        f"score at most {bound['overall']:.3f} (instances {bound['instance']:.3f}, semantic "
        f"{bound['semantic']:.3f}), by the rules of {rules.name}."
    )
    missing: dict[str, set[int]] = defaultdict(set)
    for row in everything:
        if row not in covered:
            missing[row.label].add(row.crop)
    by_crops: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for label, crops in missing.items():
        by_crops[tuple(sorted(crops))].append(label)
    if by_crops:
        lines.append("not predicted (scored as entirely wrong):")
    for numbers, labels in by_crops.items():
        lines.append(f"  crops {', '.join(map(str, numbers))}: {', '.join(sorted(labels))}")
    return "\n".join(lines)


def _training_outlook(plan: Plan, name: str, training: Training) -> list[str]:
    crops = plan.rows_by_crop(name)
    labels = sum(len(rows) for rows in crops.values())
    size = " × ".join(f"{v:g}" for v in training.voxel_size)
    lines = [
        f"{name}: {training.model['architecture']}, {len(training.classes)} classes at {size} nm",
        f"  predicts {labels} labels of {len(crops)} test crops",
    ]
    if name not in plan.active_trainings():
        lines.append("  is not trained: it contributes nothing to the submission")
        return lines
    state, known = _training_data(plan, training)
    lines.append(f"  training data: {state}")
    fetch = plan.config.fetch
    if fetch is not None and fetch.padding is not None:
        fetched = [] if training.datasplit else known
        warnings = mirroring_warnings(training, fetch.padding, fetched, crops)
        lines += [f"  warning: fetch.padding: {fetch.padding:g} nm: {line}" for line in warnings]
    cost = network_cost(training)
    networks = plan.networks_of(name)
    share = len(networks) / training.processes
    hours = {gpu: share * training_hours(training, cost, gpu) for gpu in GPUS}
    folds = f"{len(networks)} folds, each of " if len(networks) > 1 else ""
    lines.append(
        f"  {folds}{training.epochs:,} epochs of {training.iterations_per_epoch:,} batches of "
        f"{training.batch_size}, {cost.operations / 1e12:.2f} Tflop per patch: about "
        + ", ".join(f"{format_hours(value)} on {gpu}" for gpu, value in hours.items())
        + " (rough)"
    )
    lines.append(f"  a step takes {_memory_text(training)} of GPU memory, and cuDNN some more")
    paths = [path for path in map(plan.paths.metrics, networks) if path.is_file()]
    tables = [pd.read_csv(path) for path in paths]
    if tables:
        remaining = format_hours(hours_left(tables, len(networks), training))
        lines.append(f"  at the speed measured so far: {remaining} left")
    predictions = [prediction_cost(training, rows) for rows in crops.values()]
    passes = len(networks) * sum(prediction.passes for prediction in predictions)
    # This assumes windows of the size of patches.
    forward = {
        gpu: passes * patch_seconds(cost, gpu) / FORWARD_PASSES_PER_STEP / 3600 for gpu in GPUS
    }
    lines.append(
        f"  prediction: {passes:,} passes, about "
        + ", ".join(f"{format_hours(value)} on {gpu}" for gpu, value in forward.items())
        + " (rough)"
    )
    seconds, basis = _seconds_per_pass(plan.paths.calibration(name), tables, training)
    if seconds:
        lines.append(f"    {basis}: about {format_hours(passes * seconds / 3600)}")
    for prediction in predictions:
        of_all = seconds * len(networks) if seconds else None
        lines.append(f"    {describe_cost(prediction, of_all)}")
        if (warning := voxel_size_warning(prediction, name, training.voxel_size)) is not None:
            lines.append(f"    {warning}")
    lines += _teaching_outlook(plan, name, known)
    return lines + _tuning_outlook(plan, name, known)


def _teaching_outlook(plan: Plan, name: str, crops: list[LabeledCrop] | None) -> list[str]:
    """Describe what a training's teacher predicts around its crops; all crops count as training."""
    if not (teacher := plan.teacher_of(name)):
        return []
    settings = plan.trainings[teacher]
    rows = taught_rows(plan.trainings[name], settings, crops or ())
    networks = len(plan.networks_of(name))
    passes = networks * sum(prediction_cost(settings, of_crop).passes for of_crop in rows)
    if not passes:
        return [f"  {teacher} labels the raw around its crops"]
    seconds = {gpu: patch_seconds(network_cost(settings), gpu) for gpu in GPUS}
    hours = {gpu: passes * s / FORWARD_PASSES_PER_STEP / 3600 for gpu, s in seconds.items()}
    return [
        f"  {teacher} labels the raw around {len(rows)} crops: {passes:,} passes, about "
        + ", ".join(f"{format_hours(value)} on {gpu}" for gpu, value in hours.items())
        + " (rough)"
    ]


def _memory_text(training: Training) -> str:
    # This import takes seconds.
    from cellmap_pipeline.preflight.estimates.training_memory import training_memory_bytes

    return f"{training_memory_bytes(training) / GIB:.1f} GiB"


def _tuning_outlook(plan: Plan, name: str, crops: list[LabeledCrop] | None) -> list[str]:
    """Describe what tuning takes, label by label."""
    if name not in plan.validated_sources():
        return []
    by_label = tuning_hours(plan, name, crops)
    total = sum(hours for _, hours in by_label.values())
    basis = "about" if crops is not None else "at most about"
    lines = [f"  tuning: {basis} {format_hours(total)} of CPU time (rough)"]
    for label, (voxels, hours) in by_label.items():
        lines.append(f"    {label}: on {voxels / 1e6:,.1f} M voxels, {format_hours(hours)}")
    return lines


def _training_data(plan: Plan, training: Training) -> tuple[str, list[LabeledCrop] | None]:
    """Describe the state of a training's data, and return its crops if they can be read."""
    data_root = Path(plan.config.data_root)
    if not data_root.is_dir():
        return f"not present yet ({data_root})", None
    settings = {key: getattr(training, key) for key in DATASPLIT_KEYS}
    own = Path(training.datasplit) if training.datasplit else None
    try:
        crops = make_crops(data_root, DatasplitSettings(**settings), own)
    except InputError as error:
        return str(error), None
    return "every class has labeled voxels", crops


def _seconds_per_pass(
    calibration: Path, metrics: Sequence[pd.DataFrame], training: Training
) -> tuple[float | None, str]:
    """Return the measured time of a forward pass, if any, and how it was measured."""
    found = json.loads(calibration.read_text()) if calibration.is_file() else {}
    if found.get("window") == list(training.window):
        basis = f"as calibrated on {found['device']}, batch {found['batch']}"
        return found["seconds_per_pass"], basis
    if metrics:
        speed = float(pd.concat(metrics)["patches_per_second"].median())
        return 1 / (FORWARD_PASSES_PER_STEP * speed), "at the speed of the training so far"
    return None, ""
