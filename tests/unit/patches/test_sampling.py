"""Which patches training draws."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.patches.batches import BatchBuilder
from cellmap_pipeline.patches.loader import make_loaders
from cellmap_pipeline.patches.normalization import BY_RANGE
from cellmap_pipeline.patches.sampling import EpochSampler, RandomPatches
from cellmap_pipeline.patches.tiles import ValidationTiles
from tests.support.patches import Patches, simple_reader, training


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


ONE_VOXEL = [[16, 16, 16]]


def drawn(patches, number=4000):
    """Count how often each reader's crop is drawn."""
    counts = dict.fromkeys(range(len(patches.readers)), 0)
    for index in range(number):
        rng = np.random.default_rng([patches.training.seed, index])
        reader, _ = patches._draw_location(rng, patches.training.patch_size)
        counts[patches.readers.index(reader)] += 1
    return np.array(list(counts.values())) / number


def test_a_huge_crop_of_one_class_does_not_take_all_patches():
    """Of the voxels, it has 98 %."""
    huge = simple_reader(200, {"a": ONE_VOXEL})
    small = [simple_reader(32, dict.fromkeys("abc", ONE_VOXEL)) for _ in range(4)]
    patches = RandomPatches([huge, *small], training(classes=["a", "b", "c"]))
    share_of_a = 200**1.5 / (200**1.5 + 4 * 32**1.5)
    expected = 0.7 / 3 / 5 + 0.3 / 3 * share_of_a
    shares = drawn(patches)
    assert shares[0] == pytest.approx(expected, abs=0.02)
    assert shares[1:] == pytest.approx((1 - expected) / 4, abs=0.02)


def test_classes_without_voxels_get_patches_anywhere():
    """Crops that annotate a class show the network where it is not."""
    with_voxels = simple_reader(32, {"a": ONE_VOXEL})
    without = simple_reader(32, {}, annotated=["b"])
    patches = RandomPatches([with_voxels, without], training(classes=["a", "b"]))
    assert [crops.label for crops in patches.centered] == ["a"]
    assert [crops.label for crops in patches.anywhere] == ["a", "b"]
    assert drawn(patches) == pytest.approx([0.7 + 0.3 / 2, 0.3 / 2], abs=0.02)


def test_crops_of_oversampled_datasets_are_drawn_more_often():
    readers = [
        simple_reader(32, {"a": ONE_VOXEL}, ["b"], dataset)
        for dataset in ("plain", "often", "plain")
    ]
    made = training(classes=["a", "b"], oversample={"datasets": {"often": 2}})
    patches = RandomPatches(readers, made)
    for crops in (*patches.centered, *patches.anywhere):
        assert crops.shares == pytest.approx([1 / 4, 2 / 4, 1 / 4])
    assert drawn(patches) == pytest.approx([1 / 4, 2 / 4, 1 / 4], abs=0.025)


def test_a_share_of_the_patches_is_taught_and_the_others_are_drawn_as_before():
    crops = [simple_reader(32, {"a": ONE_VOXEL}), simple_reader(48, {"a": ONE_VOXEL})]
    around = simple_reader(64, {"a": ONE_VOXEL})
    teach = {"teach": {"from": "teacher", "share": 0.2}}
    made = training(classes=["a"], **teach)
    patches = RandomPatches(crops, made, [around])
    taught = 0
    for index in range(4000):
        reader, _ = patches._draw_location(np.random.default_rng([0, index]), made.patch_size)
        taught += reader is around
    assert taught / 4000 == pytest.approx(0.2, abs=0.02)
    # Without raw around any crop, all patches are as without a teacher.
    plain, untaught = RandomPatches(crops, training(classes=["a"])), RandomPatches(crops, made, [])
    for index in range(50):
        drawn_by = (
            p._draw_location(np.random.default_rng(index), made.patch_size)
            for p in (plain, untaught)
        )
        assert next(drawn_by) == next(drawn_by)


@pytest.mark.parametrize("crop_shape", [(12, 40, 64), (32, 32, 32)], ids=str)
@pytest.mark.parametrize(
    "augment",
    [
        {"rotate": 60, "scaling": 0},
        {"scaling": {"probability": 0.5}},
        {"rotate": 60, "scaling": {"probability": 1, "range": [1.2, 1.2]}},
    ],
)
def test_patches_lie_within_the_margins(crop_shape, augment):
    """The voxels that training and validation request are recorded instead of read."""
    made = training(
        patch_size=[16, 32, 48], voxel_size=[16, 8, 8], augment=augment,
        inference={"overlap": 0},
    )  # fmt: skip
    grid = Grid(made.voxel_size, (0, 0, 0), crop_shape)
    boxes = []

    def read(start, shape):
        boxes.append((start, np.add(start, shape)))
        return np.zeros(1, np.uint8), np.zeros(1, np.uint8), np.zeros((1, 1), np.uint8)

    crop = SimpleNamespace(
        grid=grid, annotated=["mito"], present_classes=[], normalization=BY_RANGE
    )
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
