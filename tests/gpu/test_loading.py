"""Batches reach the GPU while it still computes the step before."""

from __future__ import annotations

import time

import pytest
import pytorch_lightning as pl
import torch

from cellmap_pipeline.patches.batches import BatchBuilder
from cellmap_pipeline.patches.crops import open_crops
from cellmap_pipeline.patches.loader import make_loaders

pytestmark = pytest.mark.gpu

BUSY_S = 1.0


def test_batches_are_pinned_and_copied_without_waiting(drawn, device):
    """With all changes of raw and with rotation, in the size of its file."""
    training = drawn.training("mednext_cos7", 2, augment={"rotate": 180})
    crops = open_crops(drawn.datasplit(training), training.classes, training.voxel_size)
    loader, _ = make_loaders(crops, training)
    build = BatchBuilder(
        device, training.patch_size, training.voxel_size, training.channels,
        training.descriptor_sigmas_nm,
    )  # fmt: skip
    batches = list(loader)
    pinned = [tensor.is_pinned() for batch in batches for patch in batch for tensor in
              (patch.raw, patch.codes)]  # fmt: skip
    assert pinned and all(one == (device.type == "cuda") for one in pinned)
    wanted = [[tensor.cpu().clone() for tensor in build(batch)] for batch in batches]
    if device.type == "cuda":
        # Cycles of the GPU's clock, which is no faster than 2 GHz.
        torch.cuda._sleep(int(BUSY_S * 2e9))
        busy = torch.cuda.Event()
        busy.record()
        begin = time.perf_counter()
        found = [build(batch) for batch in batches]
        built_s = time.perf_counter() - begin
        assert not busy.query(), f"the host waited for the GPU ({built_s:.3f} s)"
    else:
        found = [[tensor.clone() for tensor in build(batch)] for batch in batches]
    for one, other in zip(found, wanted, strict=True):
        for tensor, expected in zip(one, other, strict=True):
            assert torch.equal(tensor.cpu(), expected)
            assert tensor.float().std() > 0


class Devices(pl.Callback):
    """Notes where the tensors of each batch are."""

    def __init__(self):
        self.found = []

    def on_train_batch_start(self, trainer, task, batch, index):
        self.found += [tensor.device.type for tensor in batch]


def test_a_training_gets_its_batches_on_the_device(drawn, folder, device):
    training = drawn.training("demo", 2)
    devices = Devices()
    drawn.train(training, folder, [devices])
    assert devices.found == [device.type] * 4
