"""Estimates of the hours that a training takes."""

import pandas as pd
import pytest

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.preflight.estimates.training_cost import (
    hours_left,
    network_cost,
    training_hours,
)
from tests.support.trainings import settings


@pytest.mark.parametrize(
    ("model", "patch_size", "hours"),
    [
        ({"architecture": "monai_dynunet", "filters": [32, 64, 128, 256, 320, 320]}, 128, 9),
        ({"architecture": "mednext", "size": "L", "kernel_size": 3}, 128, 68),
        ({"architecture": "mednext", "size": "L", "kernel_size": 5}, 128, 233),
        ({"architecture": "nnunet_plain"}, 128, 9),
        # nnU-Net's presets M and L.
        ({"architecture": "nnunet_resenc"}, 128, 12),
        ({"architecture": "nnunet_resenc"}, 192, 35),
    ],
    ids=str,
)
def test_training_hours_are_near_published_ones(model, patch_size, hours):
    training = Training.model_validate(
        {
            "classes": ["er", "pm", "ne"], "voxel_size": 8, "model": model,
            "patch_size": patch_size, "batch_size": 2, "epochs": 1000, "iterations_per_epoch": 250,
            "validation_iterations": 1,
        }
    )  # fmt: skip
    # They are for an A100 of 1.56 TB/s, where ours has 2.0.
    found = training_hours(training, network_cost(training), "A100")
    assert hours * 0.7 < found < hours * 1.3


def test_a_training_without_validation_takes_no_time_for_it():
    some, none = (
        settings(iterations_per_epoch=6, validation_iterations=3, validation=validation)
        for validation in ("held_out", "none")
    )
    cost = network_cost(some)
    # A validation batch costs a third of a training batch: 6 + 1 and 6.
    ratio = training_hours(some, cost, "A100") / training_hours(none, cost, "A100")
    assert ratio == pytest.approx(7 / 6)


def test_classes_of_a_hierarchy_cost_time_at_full_resolution():
    atoms = [[f"class{n}", "all"] for n in range(30)]
    classes = ["all", *(f"class{n}" for n in range(30))]
    without, related = (
        network_cost(settings(classes=classes, targets={}, hierarchy=hierarchy)).values
        for hierarchy in (False, atoms)
    )
    # 30 atoms, `none` and 31 classes; the network itself has as many outputs as without.
    assert related - without == 5 * 62 * 32**3


def test_remaining_hours_use_the_measured_speed():
    table = pd.DataFrame({"epoch": [0, 1, 2], "seconds": [100, 360, 365]})
    assert hours_left([table], 1, settings(epochs=12)) == pytest.approx(0.9, abs=0.01)


def test_folds_that_have_not_begun_remain_as_a_whole():
    tables = [pd.DataFrame({"epoch": range(n), "seconds": [360] * n}) for n in (10, 4)]
    assert hours_left(tables, 5, settings(epochs=10)) == pytest.approx(3.6)
