"""Which patches training and validation draw."""

import numpy as np
import pytest
import torch

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.patches.batches import BatchBuilder
from cellmap_pipeline.patches.loader import make_loaders
from cellmap_pipeline.patches.sampling import EpochSampler
from tests.support.patches import CROP_GRID, Patches, training


def test_patch_is_determined_by_its_index(crops):
    a, b = Patches(crops, training()), Patches(crops, training())
    for number in (0, 7, 1_000_000):
        assert all(torch.equal(x, y) for x, y in zip(a[number], b[number], strict=True))
    assert not torch.equal(a[0][0], a[1][0])
    assert not torch.equal(a[0][0], Patches(crops, training(seed=1))[0][0])


def test_sparse_classes_are_in_most_patches(crops):
    patches = Patches(crops, training())
    share = np.mean([(patches[i][1][0] == 1).any() for i in range(40)])
    assert share > 0.9


def test_validation_tiles_cover_the_crop_once(crops):
    tiles = Patches(crops, training()).tiles.read.__self__
    assert len(tiles) == 2 * 2 * 2
    seen = np.zeros(CROP_GRID.shape, int)
    for _, start in tiles.tiles:
        seen[tuple(slice(s, s + 32) for s in start)] += 1
    assert seen.min() == 1
    few = Patches(crops, training(validation_iterations=1)).tiles
    assert len(few.read.__self__) == 2 and len(few) == 1


def test_tiles_after_the_last_are_unknown(crops):
    patches = Patches(crops, training(patch_size=48))
    _, target = patches.build([patches.tiles.read(1)])
    assert (target == 255).all()


def test_epochs_and_processes_sample_different_patches():
    numbers = set()
    for epoch in range(3):
        for rank in range(2):
            sampler = EpochSampler(5, rank, 2)
            sampler.set_epoch(epoch)
            drawn = list(sampler)
            assert len(drawn) == len(sampler) == 5
            assert not numbers & set(drawn)
            numbers |= set(drawn)
    assert numbers == set(range(30))


def test_patches_do_not_depend_on_threads_and_memory(crops):
    finished = []
    for changes in ({}, {"num_workers": 3}, {"memory_gb": 0.5}):
        made = training(**changes)
        batches, _ = make_loaders({"train": crops, "validate": crops}, made)
        build = BatchBuilder(torch.device("cpu"), made.patch_size, made.voxel_size, made.channels)
        assert len(batches) == 3
        finished.append([tuple(part.clone() for part in build(batch)) for batch in batches])
    for one, *others in zip(*finished, strict=True):
        assert all(torch.equal(x, y) for other in others for x, y in zip(one, other, strict=True))


def test_unreadable_patch_ends_the_epoch(crops, tmp_path):
    for chunk in (tmp_path / "raw/s0").glob("*/*/*"):
        chunk.unlink()
    batches, _ = make_loaders({"train": crops, "validate": crops}, training())
    with pytest.raises(InputError, match="raw"):
        list(batches)
