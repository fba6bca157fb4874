"""Optimizers and learning-rate schedules."""

import pytest
import torch

from cellmap_pipeline.config.sections import Scheduler
from cellmap_pipeline.training import optimizers
from cellmap_pipeline.training.optimizers import build_optimizer, learning_rate_factor
from tests.support.trainings import settings


def test_polynomial_schedule_has_its_power_and_minimum():
    made = settings(learning_rate=1.0, scheduler={"name": "polynomial", "power": 2, "minimum": 0.1})
    rates = [learning_rate_factor(step, 100, made) for step in (0, 50, 100)]
    assert rates == pytest.approx([1, 0.1 + 0.9 / 4, 0.1])


def test_cosine_schedule_and_warmup():
    made = settings(learning_rate=1.0, scheduler={"name": "cosine", "minimum": 0.1})
    assert learning_rate_factor(0, 100, made) == 1
    assert learning_rate_factor(50, 100, made) == pytest.approx(0.55)
    assert learning_rate_factor(100, 100, made) == pytest.approx(0.1)
    warm = made.model_copy(update={"scheduler": Scheduler(warmup_steps=9)})
    assert [learning_rate_factor(step, 100, warm) for step in (0, 4, 9, 99)] == [0.1, 0.5, 1, 1]


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
@pytest.mark.parametrize(
    ("changes", "precision", "expected"),
    [
        ({}, "16-mixed", 1e-4), ({}, "bf16-mixed", 1e-8), ({}, "32", 1e-8),
        ({"adam_eps": 1e-6}, "16-mixed", 1e-6), ({"adam_eps": 1e-6}, "32", 1e-6),
    ],
)  # fmt: skip
def test_eps_depends_on_the_precision_of_the_machine(
    monkeypatch, optimizer, changes, precision, expected
):
    monkeypatch.setattr(optimizers, "resolve_precision", lambda configured: precision)
    made = build_optimizer(torch.nn.Linear(2, 2), settings(optimizer=optimizer, **changes))
    assert made.param_groups[0]["eps"] == expected
