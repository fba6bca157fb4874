"""Which patches training and validation draw."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.patches.batches import BatchBuilder
from cellmap_pipeline.patches.loader import make_loaders
from cellmap_pipeline.patches.sampling import EpochSampler, RandomPatches, ValidationTiles
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


@pytest.mark.parametrize("crop_shape", [(12, 40, 64), (32, 32, 32)], ids=str)
def test_patches_lie_within_the_margins(crop_shape):
    """The voxels that training and validation request are recorded instead of read."""
    made = training(
        patch_size=[16, 32, 48], voxel_size=[16, 8, 8], augment={"rotate": 60},
        inference={"overlap": 0},
    )  # fmt: skip
    grid = Grid(made.voxel_size, (0, 0, 0), crop_shape)
    boxes = []

    def read(start, shape):
        boxes.append((start, np.add(start, shape)))
        return np.zeros(1, np.uint8), np.zeros(1, np.uint8), np.zeros((1, 1), np.uint8)

    crop = SimpleNamespace(grid=grid, present_classes=[])
    reader = SimpleNamespace(crop=crop, read=read)
    patches, tiles = RandomPatches([reader], made), ValidationTiles([reader], made)
    for index in range(500):
        patches.read(index)
    for index in range(len(tiles)):
        tiles.read(index)
    margin = np.array(made.margins.around(crop_shape))
    low = np.min([start for start, _ in boxes], axis=0)
    high = np.max([stop for _, stop in boxes], axis=0) - crop_shape
    assert (-low <= margin).all() and (high <= margin).all()
    # The margins are not wider than needed.
    assert (np.maximum(-low, high) >= margin - 3).all()


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
