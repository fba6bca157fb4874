import numpy as np
import pytest
import torch

from cellmap_pipeline.config import Training
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.patches import (
    CropData,
    EpochSampler,
    PatchDataset,
    TileDataset,
    loaders,
    open_crops,
)
from cellmap_pipeline.volumes import create

RAW_GRID = Grid((8, 8, 8), (0, 0, 0), (64, 64, 64))
CROP_GRID = RAW_GRID.box((10, 12, 14), (40, 44, 48))
rng = np.random.default_rng(0)


def training(**changes):
    values = {
        "classes": ["mito", "pm"],
        "voxel_size": 8,
        "model": {"architecture": "monai_basic_unet3d"},
        "patch_size": 32,
        "augment": {"contrast": 0, "gamma": 0, "noise": 0},
        "num_workers": 0,
        "iterations_per_epoch": 3,
    }
    return Training.model_validate(values | changes)


@pytest.fixture
def crops(tmp_path):
    """A crop where raw is 200 inside mitochondria, 100 elsewhere; pm is not annotated."""
    ids = np.zeros(CROP_GRID.shape, np.uint16)
    ids[5:15, 5:15, 5:15] = 1
    ids[25:35, 20:40, 10:40] = 2
    raw = np.full(RAW_GRID.shape, 100, np.uint8)
    raw[10:50, 12:56, 14:62] = np.where(ids > 0, 200, 100)
    create(tmp_path / "raw", RAW_GRID, "uint8", chunk=16).write(raw).result()
    (tmp_path / "crop1").mkdir()
    create(tmp_path / "crop1/mito", CROP_GRID, "uint16").write(ids).result()
    return [CropData(tmp_path / "raw", tmp_path / "crop1", ["mito"], (8, 8, 8))]


def test_raw_and_targets_fit_together(crops):
    dataset = PatchDataset(crops, training())
    assert dataset.channels == ["mito", "mito_boundary", "pm"]
    for number in range(20):
        raw, target = dataset[number]
        assert raw.shape == (1, 32, 32, 32) and raw.dtype == torch.float32
        assert target.shape == (3, 32, 32, 32) and target.dtype == torch.uint8
        assert torch.equal(raw[0] > 0.5, target[0] == 1)
        assert (target[2] == 255).all()
        assert ((target[1] == 1) <= (target[0] == 1)).all()


def test_the_same_number_gives_the_same_patch(crops):
    a, b = PatchDataset(crops, training()), PatchDataset(crops, training())
    for number in (0, 7, 1_000_000):
        assert all(torch.equal(x, y) for x, y in zip(a[number], b[number], strict=True))
    assert not torch.equal(a[0][0], a[1][0])
    assert not torch.equal(a[0][0], PatchDataset(crops, training(seed=1))[0][0])


def test_rare_classes_come_up(crops):
    dataset = PatchDataset(crops, training())
    share = np.mean([(dataset[i][1][0] == 1).any() for i in range(40)])
    assert share > 0.9


def test_a_patch_larger_than_the_crop_is_unknown_outside(crops):
    raw, target = PatchDataset(crops, training(patch_size=48))[0]
    known = (target[0] != 255).sum()
    assert known == 40 * 44 * 48


def test_other_voxel_sizes(crops):
    crops[0].voxel_size = (16, 16, 16)
    raw, target = PatchDataset(crops, training(voxel_size=16))[3]
    agree = ((raw[0] > 0.6) == (target[0] == 1))[target[0] != 255].float().mean()
    assert agree > 0.95


def test_tiles_cover_the_crop_once_and_are_fixed(crops):
    dataset = TileDataset(crops, training())
    assert len(dataset) == 2 * 2 * 2
    seen = np.zeros(CROP_GRID.shape, int)
    for _, grid in dataset.tiles:
        start = CROP_GRID.offset(grid)
        seen[tuple(slice(s, s + 32) for s in start)] += 1
    assert seen.min() == 1
    assert len(TileDataset(crops, training(validation_iterations=1))) == 2


def test_epochs_and_processes_draw_different_patches():
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


def test_workers_give_what_one_process_gives(crops):
    batches = []
    for workers in (0, 1):
        made, _ = loaders({"train": crops, "validate": crops}, training(num_workers=workers))
        batches.append(list(made))
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_a_datasplit_row_without_its_classes_is_named(crops, tmp_path):
    path = tmp_path / "datasplit.csv"
    path.write_text(
        f"train,{tmp_path}/raw,{tmp_path}/crop1/[mito]\n"
        f"validate,{tmp_path}/raw,{tmp_path}/crop1/[pm]\n"
    )
    with pytest.raises(InputError, match="crop1 has none of pm"):
        open_crops(path, ["mito", "pm"], (8, 8, 8))
