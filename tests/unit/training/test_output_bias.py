"""The bias with which a network starts."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training.output_bias import (
    MIN_SHARE,
    find_output_biases,
    fit_atoms,
    output_bias,
)
from cellmap_pipeline.training.task import SegmentationTask
from tests.support.networks import SMALL

ATOMS = [["mito", "mito_mem"], ["mito"], ["ecs"]]


def make_task(**changes):
    values = {"classes": ["mito", "mito_mem", "ecs"], "targets": {"mito": ["distance"]},
              "voxel_size": 8, "patch_size": 32,
              "model": {"architecture": "monai_basic_unet3d", "features": [4] * 6}}  # fmt: skip
    return SegmentationTask(Training.model_validate(values | changes).model_dump(mode="json"))


def test_unresolved_hierarchy_is_refused():
    with pytest.raises(InputError, match="`hierarchy: true` is resolved when a run is planned"):
        make_task(hierarchy=True)


@pytest.mark.parametrize("hierarchy", [False, ATOMS])
def test_network_starts_at_the_shares(hierarchy):
    task = make_task(hierarchy=hierarchy)
    shares = np.array([0.2, 0.35, 0.05, 0.3])  # mito, its distance, mito_mem, ecs
    bias = torch.from_numpy(output_bias(shares, task)).float()
    logits = task.class_logits(bias.reshape(1, -1, 1, 1, 1)).flatten()
    np.testing.assert_allclose(logits.sigmoid().numpy(), shares, rtol=1e-3)


def test_rest_of_a_union_is_split_among_its_atoms():
    """Of mito's 0.3, the membrane has 0.1; lumen and ribosomes, never annotated, share the rest."""
    membership = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]], bool)
    atoms = fit_atoms(np.array([0.3, 0.1, np.nan]), membership)
    np.testing.assert_allclose(atoms, [0.1, 0.1, 0.1, 0.7], rtol=1e-4)


def test_unknown_channel_keeps_its_bias_and_rare_ones_are_bounded():
    bias = output_bias(np.array([0, np.nan, 1, 0.5]), make_task())
    bound = np.log(MIN_SHARE / (1 - MIN_SHARE))
    np.testing.assert_allclose(bias, [bound, np.nan, -bound, 0], atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_consistent_shares_are_reproduced(weights):
    membership = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]], bool)
    true = np.array(weights) / np.sum(weights)
    shares = membership @ true
    atoms = fit_atoms(shares, membership)
    assert atoms.sum() == pytest.approx(1)
    np.testing.assert_allclose(membership @ atoms, shares, rtol=0.02)


def test_contradictory_shares_give_a_compromise():
    """Disjoint classes with a share of 0.8 each, counted in different crops."""
    atoms = fit_atoms(np.array([0.8, 0.8]), np.array([[1, 0, 0], [0, 1, 0]], bool))
    assert np.isfinite(atoms).all() and (atoms > 0).all()
    assert atoms[0] == pytest.approx(atoms[1], abs=0.35)


@pytest.mark.parametrize("name", SMALL)
def test_output_biases_of_every_network_shift_its_outputs(name):
    options, patch_size = SMALL[name]
    task = make_task(model={"architecture": name, **options}, patch_size=patch_size)
    task.train()
    before = copy.deepcopy(task.network.state_dict())
    found = find_output_biases(task)
    after = task.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    raw = torch.randn(1, 1, *task.training_settings.patch_size)
    outputs = []
    for shift in (0.0, 2.0):
        with torch.no_grad():
            for parameter in found:
                parameter += shift
            torch.manual_seed(0)
            values = task.network(raw)
        outputs.append([values] if isinstance(values, torch.Tensor) else list(values))
    assert len(found) == len(outputs[0])
    for before, after in zip(*outputs, strict=True):
        torch.testing.assert_close(after - before, torch.full_like(before, 2.0))
