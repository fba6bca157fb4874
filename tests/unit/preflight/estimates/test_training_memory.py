"""The counted memory against that of PyTorch's CPU allocator, and what it depends on."""

import pytest
from torch.profiler import ProfilerActivity, profile

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.preflight.estimates import training_memory
from cellmap_pipeline.preflight.estimates.training_cost import network_cost
from cellmap_pipeline.preflight.estimates.training_memory import training_memory_bytes
from cellmap_pipeline.training.optimizers import build_optimizer
from cellmap_pipeline.training.task import SegmentationTask

UNET = {"architecture": "monai_basic_unet3d", "features": [8, 8, 16, 32, 64, 8]}
MEDNEXT = {"architecture": "mednext", "size": "S", "deep_supervision": True}
NNUNET = {"architecture": "nnunet_resenc"}


def settings(**changes):
    values = {
        "classes": ["mito", "er"], "voxel_size": 8, "batch_size": 1, "model": UNET,
        "patch_size": 32, "precision": "bf16-mixed", "ema": None,
    }  # fmt: skip
    return Training.model_validate(values | changes)


def allocated_bytes(training):
    """Return the peak of what PyTorch allocates on the CPU in the same steps."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        task = SegmentationTask(training_settings(training, TRAIN_KEYS))
        optimizer = build_optimizer(task.network, training)
        for _ in range(training_memory.STEPS):
            training_memory._step(task, optimizer, training)
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize(("model", "precision"), [(MEDNEXT, "bf16-mixed"), (NNUNET, "32")])
def test_as_allocated(model, precision, monkeypatch):
    # The CPU's autocast decides on the types there.
    monkeypatch.setattr(training_memory, "FLOAT32_ON_CUDA", ())
    training = settings(model=model, precision=precision)
    # The CPU's convolutions need some memory of their own.
    ratio = training_memory_bytes(training) / allocated_bytes(training)
    assert 0.85 < ratio < 1.02


def test_group_norm_keeps_32_bits():
    training = settings(model=MEDNEXT, patch_size=32)
    found = training_memory_bytes(training)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_memory, "FLOAT32_ON_CUDA", ())
        assert training_memory_bytes(training) < 0.95 * found


def test_batch_and_precision():
    one = training_memory_bytes(settings())
    n_weights = sum(p.numel() for p in SegmentationTask(
        training_settings(settings(), TRAIN_KEYS)).parameters())  # fmt: skip
    # Weights, gradients, two moments and the weights in 16 bits do not depend on the batch.
    constant = 18 * n_weights
    two = training_memory_bytes(settings(batch_size=2))
    assert two - one == pytest.approx(one - constant, rel=0.03)
    assert training_memory_bytes(settings(precision="16-mixed")) == one


def test_copies_of_the_weights():
    one = training_memory_bytes(settings())
    average = training_memory_bytes(settings(ema=0.99)) - one
    assert average > 0
    assert training_memory_bytes(settings(ema=0.99, devices=2)) == one + 2 * average


def test_classes_and_offsets_take_memory():
    few = training_memory_bytes(settings())
    offsets = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [4, 0, 0]]
    affinities = settings(targets={"mito": [{"affinities": offsets}]})
    atoms = settings(hierarchy=[["mito"], ["er"]])
    # At least the output, its target, and a copy of each in 32 bits.
    assert training_memory_bytes(affinities) - few > len(offsets) * 32**3 * 16
    assert training_memory_bytes(atoms) > few


def test_networks_that_need_values_while_they_are_built():
    swin = {"architecture": "monai_swin_unetr", "feature_size": 12}
    training = settings(model=swin, patch_size=64)
    assert training_memory_bytes(training) > training_memory_bytes(settings(patch_size=64))
    assert network_cost(training).operations > 1e9
