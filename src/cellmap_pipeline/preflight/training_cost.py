"""How long trainings take, by the operations of their networks."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from cellmap_pipeline.config.training import Training

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
    values of all activations.
    """

    operations: float
    depthwise: float
    values: float


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
    patch = patch_seconds(cost, gpu)
    validation = min(training.validation_iterations, training.iterations_per_epoch) / PASSES
    patches = training.batch_size * (training.iterations_per_epoch + validation)
    return training.epochs * patches * patch / 3600


def patch_seconds(cost: Cost, gpu: str) -> float:
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
