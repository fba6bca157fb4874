"""What a run can reach and about how long it takes, before it starts: `snakemake plan`."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cellmap_pipeline.config.stages import DATASPLIT_KEYS
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.datasplit import SplitSettings, make_crops
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.outlook_prediction import describe, duration, outlook_of, warning_of
from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.scoring.upper_bound import ceiling

# Peak of 16-bit tensor operations per second, and bytes of memory per second (data sheets, dense).
GPUS = {
    "V100": (125e12, 0.9e12),
    "A100": (312e12, 2.0e12),
    "RTX 4090": (165e12, 1.0e12),
    "L40S": (362e12, 0.86e12),
    "H100": (989e12, 3.35e12),
    "H200": (989e12, 4.8e12),
}
# Shares of the two that 3D networks come to in training, and operations of depthwise convolutions
# per byte that the memory could move. Fitted to published hours of 250,000 steps on an A100 of
# 1.56 TB/s: nnU-Net 9, MedNeXt L with kernel 3 68, with kernel 5 233 (Isensee et al. 2024, arXiv
# 2404.09556).
COMPUTE_SHARE, MEMORY_SHARE, DEPTHWISE_PER_BYTE = 0.17, 0.62, 0.21
# Forward and backward pass over forward alone; how often an activation of two bytes is moved.
PASSES, MOVES = 3, 6


class Cost(NamedTuple):
    """Of one patch through a network: operations, those of them in depthwise convolutions, and
    values of all activations."""

    operations: float
    depthwise: float
    values: float


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


def network_cost(training: Training) -> Cost:
    """Of one patch, counted on the network without weights or data."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from cellmap_pipeline.models.build import build_model

    with torch.device("meta"):
        network = build_model(training.model, 1, len(training.channels), training.patch_size)
        patch = torch.empty(1, 1, *training.patch_size)
    values = depthwise = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal values, depthwise
        if isinstance(output, torch.Tensor):
            values += output.numel()
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d) and module.groups > 1:
            forward = isinstance(module, torch.nn.Conv3d)
            # Each value of the larger side meets each weight of its channel once.
            points = (output if forward else inputs[0]).numel()
            channels = module.out_channels if forward else module.in_channels
            depthwise += 2 * points * module.weight.numel() // channels

    for module in network.modules():
        if not any(module.children()):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(patch)
    return Cost(counter.get_total_flops(), depthwise, values)


def training_hours(training: Training, cost: Cost, gpu: str) -> float:
    """About how long a whole training takes on GPUs of a kind, within a factor of two or three.

    The sum of dense convolutions, depthwise ones, which no tensor core takes, and of moving
    activations through memory.
    """
    patch = _patch_seconds(cost, gpu)
    validation = min(training.validation_iterations, training.iterations_per_epoch) / PASSES
    patches = training.batch_size * (training.iterations_per_epoch + validation)
    return training.epochs * patches * patch / 3600


def _patch_seconds(cost: Cost, gpu: str) -> float:
    """Forward and backward pass of a patch."""
    compute, memory = GPUS[gpu]
    return (
        PASSES * (cost.operations - cost.depthwise) / (COMPUTE_SHARE * compute)
        + PASSES * cost.depthwise / (DEPTHWISE_PER_BYTE * memory)
        + MOVES * 2 * cost.values / (MEMORY_SHARE * memory)
    )


def hours_left(table: pd.DataFrame, training: Training) -> float:
    """Hours that a training still takes at the speed of its epochs so far, in its metrics."""
    left = training.epochs - 1 - int(table["epoch"].iloc[-1])
    return left * float(table["seconds"].median()) / 3600


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
    forward = {gpu: passes * _patch_seconds(cost, gpu) / PASSES / 3600 for gpu in GPUS}
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
