"""What a run can reach and about how long it takes, before it starts: `snakemake plan`."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pandas as pd

from cellmap_pipeline.config.stages import DATASPLIT_KEYS
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.datasplit import SplitSettings, make_crops
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.preflight.prediction_cost import describe, duration, outlook_of, warning_of
from cellmap_pipeline.preflight.training_cost import (
    GPUS,
    PASSES,
    hours_left,
    network_cost,
    patch_seconds,
    training_hours,
)
from cellmap_pipeline.scoring.upper_bound import ceiling


def lacking_data(plan: Plan, name: str) -> str | None:
    """What keeps a training from its data, or None."""
    training = plan.trainings[name]
    settings = {key: getattr(training, key) for key in DATASPLIT_KEYS}
    own = Path(training.datasplit) if training.datasplit else None
    try:
        make_crops(Path(plan.config.data_root), SplitSettings(**settings), own)
    except InputError as error:
        return str(error)
    return None


def write_outlook(plan: Plan) -> str:
    """All of it as text."""
    lines = []
    for name, training in plan.trainings.items():
        lines += [*_of_training(plan, name, training), ""]
    given = set(plan.given())
    everything = plan.manifest_rows
    reach = ceiling(everything, given)
    lines.append(
        f"submission: {len(given)} of the manifest's {len(everything)} labels. Perfect ones could "
        f"reach {reach['overall']:.3f} at most (instances {reach['instance']:.3f}, semantic "
        f"{reach['semantic']:.3f})."
    )
    missing: dict[str, set[int]] = defaultdict(set)
    for row in everything:
        if row not in given:
            missing[row.label].add(row.crop)
    together: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for label, crops in missing.items():
        together[tuple(sorted(crops))].append(label)
    if together:
        lines.append("not predicted (each crop counts as if all of it were wrong):")
    for numbers, labels in together.items():
        lines.append(f"  of crops {', '.join(map(str, numbers))}: {', '.join(sorted(labels))}")
    return "\n".join(lines)


def _of_training(plan: Plan, name: str, training: Training) -> list[str]:
    crops = plan.predicted(name)
    labels = sum(len(rows) for rows in crops.values())
    size = " × ".join(f"{v:g}" for v in training.voxel_size)
    lines = [
        f"{name}: {training.model['architecture']}, {len(training.classes)} classes at {size} nm",
        f"  gives {labels} labels of {len(crops)} test crops",
    ]
    if not crops:
        lines.append("  is not trained: nothing that is submitted comes of it")
        return lines
    if Path(plan.config.data_root).is_dir():
        lacking = lacking_data(plan, name)
        lines.append("  training data: " + (lacking or "every class has labelled voxels"))
    else:
        lines.append(f"  training data: not here yet ({plan.config.data_root})")
    cost = network_cost(training)
    hours = {gpu: training_hours(training, cost, gpu) / training.devices for gpu in GPUS}
    lines.append(
        f"  {training.epochs:,} epochs of {training.iterations_per_epoch:,} batches of "
        f"{training.batch_size}, {cost.operations / 1e12:.2f} Tflop a patch: about "
        + ", ".join(f"{duration(value)} on {gpu}" for gpu, value in hours.items())
        + " (rough)"
    )
    metrics = plan.output / name / "training/metrics.csv"
    table = pd.read_csv(metrics) if metrics.is_file() else None
    if table is not None:
        lines.append(f"  at the speed measured here: {duration(hours_left(table, training))} to go")
    predictions = [outlook_of(training, rows) for rows in crops.values()]
    passes = sum(prediction.passes for prediction in predictions)
    # Windows are taken to be as large as patches.
    forward = {gpu: passes * patch_seconds(cost, gpu) / PASSES / 3600 for gpu in GPUS}
    lines.append(
        f"  prediction: {passes:,} passes, about "
        + ", ".join(f"{duration(value)} on {gpu}" for gpu, value in forward.items())
        + " (rough)"
    )
    seconds, how = _seconds_per_pass(plan.output / name, table, training)
    if seconds:
        lines.append(f"    {how}: about {duration(passes * seconds / 3600)}")
    for prediction in predictions:
        lines.append(f"    {describe(prediction, seconds)}")
        if (warning := warning_of(prediction, name, training.voxel_size)) is not None:
            lines.append(f"    {warning}")
    return lines


def _seconds_per_pass(
    folder: Path, metrics: pd.DataFrame | None, training: Training
) -> tuple[float | None, str]:
    """What a pass of the network takes as far as it was measured, and how it was."""
    calibration = folder / "calibration.json"
    found = json.loads(calibration.read_text()) if calibration.is_file() else {}
    if found.get("window") == list(training.inference.window or training.patch_size):
        how = f"as calibrated on {found['device']}, batch {found['batch']}"
        return found["seconds_per_pass"], how
    if metrics is not None:
        speed = float(metrics["patches_per_second"].median())
        return 1 / (PASSES * speed), "at the speed of the training here"
    return None, ""
