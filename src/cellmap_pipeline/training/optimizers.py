"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math

import torch
from torch import nn

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.training.devices import resolve_precision

ADAM_EPS = 1e-8
# Gradients that float16 rounds to zero leave second moments near zero, and steps as long as others.
FP16_ADAM_EPS = 1e-4


def build_optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Build the optimizer that a training's settings name, for the precision on this machine."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    rate = settings.learning_rate
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.99, nesterov=True)
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, rate, eps=adam_eps(settings))
    return torch.optim.AdamW(
        parameters, rate, eps=adam_eps(settings), weight_decay=settings.weight_decay
    )


def adam_eps(settings: Training) -> float:
    """Return the `eps` of Adam and AdamW, which by default depends on the precision."""
    if settings.adam_eps is not None:
        return settings.adam_eps
    return FP16_ADAM_EPS if resolve_precision(settings.precision) == "16-mixed" else ADAM_EPS


def learning_rate_factor(step: int, total: int, settings: Training) -> float:
    """Compute the learning rate at step `step` of `total`, as a fraction of the highest."""
    schedule = settings.scheduler
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if schedule.name == "constant":
        return 1.0
    done = min(1.0, (step - schedule.warmup_steps) / max(1, total - schedule.warmup_steps))
    lowest = schedule.minimum / settings.learning_rate
    if schedule.name == "polynomial":
        return lowest + (1 - lowest) * (1 - done) ** schedule.power
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))
