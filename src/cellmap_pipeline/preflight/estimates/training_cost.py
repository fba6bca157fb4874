"""Estimates of training times, based on the operations of the networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import pandas as pd

from cellmap_pipeline.config.training import Training

# Peak 16-bit tensor operations per second, and memory bandwidth in bytes per second (data sheets,
# dense).
GPUS = {
    "V100": (125e12, 0.9e12),
    "A100": (312e12, 2.0e12),
    "RTX 4090": (165e12, 1.0e12),
    "L40S": (362e12, 0.86e12),
    "H100": (989e12, 3.35e12),
    "H200": (989e12, 4.8e12),
}
# Fractions of both that 3D networks reach in training, and operations of depthwise convolutions per
# byte of memory bandwidth. They are fitted to published hours of 250,000 steps on an A100 of
# 1.56 TB/s: nnU-Net 9, MedNeXt L with kernel 3 68, with kernel 5 233 (Isensee et al. 2024, arXiv
# 2404.09556).
COMPUTE_FRACTION, MEMORY_FRACTION, DEPTHWISE_PER_BYTE = 0.17, 0.62, 0.21
# Cost of a forward and backward pass, in forward passes.
FORWARD_PASSES_PER_STEP = 3
MOVES_PER_ACTIVATION = 6
BYTES_PER_ACTIVATION = 2
# Reads and writes of the float32 values of an atom or a class, in those of an activation.
ACTIVATIONS_PER_ATOM = 5


class NetworkCost(NamedTuple):
    """Cost of a network's forward pass of one patch.

    Attributes
    ----------
    operations
        Number of operations.
    depthwise
        Number of those in depthwise convolutions.
    values
        Number of values of all activations.
    """

    operations: float
    depthwise: float
    values: float


def network_cost(training: Training) -> NetworkCost:
    """Count the cost of one patch on the network, without computing anything."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from cellmap_pipeline.models.build import build_model

    # Built elsewhere first, since some networks read values of tensors while they are built.
    network = build_model(
        training.model, 1, len(training.outputs), training.patch_size, training.voxel_size
    ).to("meta")
    patch = torch.empty(1, 1, *training.patch_size, device="meta")
    values = depthwise = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal values, depthwise
        if isinstance(output, torch.Tensor):
            values += output.numel()
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d) and module.groups > 1:
            forward = isinstance(module, torch.nn.Conv3d)
            # Each value of the larger side is multiplied once with each weight of its channel.
            points = (output if forward else inputs[0]).numel()
            channels = module.out_channels if forward else module.in_channels
            depthwise += 2 * points * module.weight.numel() // channels

    for module in network.modules():
        if not any(module.children()):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(patch)
    values += _hierarchy_values(training)
    return NetworkCost(counter.get_total_flops(), depthwise, values)


def _hierarchy_values(training: Training) -> int:
    """Number of activations that move as many bytes as the atoms and classes of a `hierarchy`."""
    if not training.atoms:
        return 0
    channels = len(set().union(*training.atoms)) + len(training.atoms) + 1
    return ACTIVATIONS_PER_ATOM * channels * prod(training.patch_size)


def training_hours(training: Training, cost: NetworkCost, gpu: str) -> float:
    """Estimate the hours of a whole training on one GPU, within a factor of two or three.

    The estimate is the sum of the times of dense convolutions, of depthwise ones, which do not use
    tensor cores, and of moving activations through memory.
    """
    patch = patch_seconds(cost, gpu)
    validation_batches = min(training.validation_iterations, training.iterations_per_epoch)
    if training.validation == "none":
        validation_batches = 0
    validation = validation_batches / FORWARD_PASSES_PER_STEP
    patches = training.batch_size * (training.iterations_per_epoch + validation)
    return training.epochs * patches * patch / 3600


def patch_seconds(cost: NetworkCost, gpu: str) -> float:
    """Estimate the seconds of a forward and backward pass of one patch."""
    compute, memory = GPUS[gpu]
    dense = FORWARD_PASSES_PER_STEP * (cost.operations - cost.depthwise)
    depthwise = FORWARD_PASSES_PER_STEP * cost.depthwise
    moved_bytes = MOVES_PER_ACTIVATION * BYTES_PER_ACTIVATION * cost.values
    return (
        dense / (COMPUTE_FRACTION * compute)
        + depthwise / (DEPTHWISE_PER_BYTE * memory)
        + moved_bytes / (MEMORY_FRACTION * memory)
    )


def hours_left(tables: Sequence[pd.DataFrame], networks: int, training: Training) -> float:
    """Return the remaining hours of all networks at the median speed of their metrics tables."""
    done = sum(int(table["epoch"].iloc[-1]) + 1 for table in tables)
    left = networks * training.epochs - done
    return left * float(pd.concat(tables)["seconds"].median()) / 3600
