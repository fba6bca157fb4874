import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.patches.batches import Finisher, decode, gather
from cellmap_pipeline.patches.crops import CropData, open_crops, spread_boxes
from cellmap_pipeline.patches.loader import loaders
from cellmap_pipeline.patches.sampling import EpochSampler

RAW_GRID = Grid((8, 8, 8), (0, 0, 0), (64, 64, 64))
CROP_GRID = RAW_GRID.box((10, 12, 14), (40, 44, 48))


def training(**changes):
    values = {
        "classes": ["mito", "pm"],
        "voxel_size": 8,
        "model": {"architecture": "monai_basic_unet3d"},
        "patch_size": 32,
        "augment": {"contrast": 0, "gamma": 0, "noise": 0},
        "num_workers": 1,
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


class Patches:
    """Patches of the training loader by number, finished."""

    def __init__(self, crops, made):
        self.train, self.tiles = loaders({"train": crops, "validate": crops}, made)
        self.finish = Finisher(torch.device("cpu"), made.patch_size, made.voxel_size, made.channels)

    def __getitem__(self, number):
        raw, target = self.finish([self.train._read(number)])
        return raw[0, 0].clone(), target[0].clone()

    def of_whole_crop(self):
        """Targets of the crop, from the only tile over it."""
        _, target = self.finish([self.tiles._read(0)])
        return target[0, :, 4:44, 2:46, :].clone()


@pytest.mark.parametrize("loader", ["fast", "cellmap-data"])
@pytest.mark.parametrize("rotate", [0, 180])
def test_raw_and_targets_fit_together(crops, loader, rotate):
    augment = {"contrast": 0, "gamma": 0, "noise": 0, "rotate": rotate}
    patches = Patches(crops, training(loader=loader, augment=augment))
    for number in range(20):
        raw, target = patches[number]
        assert raw.shape == (32, 32, 32) and raw.dtype == torch.float32
        assert target.shape == (3, 32, 32, 32) and target.dtype == torch.uint8
        # A rotated voxel at the border of an object may go to either side.
        agree = ((raw > 0.59) == (target[0] == 1))[target[0] != 255].float().mean()
        assert agree == 1 if not rotate else agree > 0.97
        assert (target[2] == 255).all()
        assert ((target[1] == 1) <= (target[0] == 1)).all()


def test_the_official_loader_gives_the_same_voxels(crops):
    fast, official = (Patches(crops, training(loader=name)) for name in ("fast", "cellmap-data"))
    for number in range(10):
        raw, target = fast[number]
        other_raw, other = official[number]
        assert torch.equal(raw, other_raw)
        # The official patch knows no neighbours beyond its faces.
        inner = (slice(None), *[slice(1, -1)] * 3)
        assert torch.equal(target[inner], other[inner])
        assert torch.equal(target[0], other[0])


@pytest.mark.parametrize("loader", ["fast", "cellmap-data"])
def test_affinities_and_distances_of_a_turned_patch(crops, tmp_path, loader):
    """Affinities hang on directions: they are those of the objects as the patch lies."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, (10, 11, 12)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    create(tmp_path / "crop1/ves", CROP_GRID, "uint16").write(ids.astype(np.uint16)).result()
    opened = [CropData(tmp_path / "raw", tmp_path / "crop1", ["ves"], (8, 8, 8))]
    targets = {"ves": ["distance", "affinities"]}
    patches = Patches(opened, training(classes=["ves"], targets=targets, loader=loader))
    turned = set()
    for number in range(12):
        _, target = patches[number]
        inside, distance, *along = target
        assert target.shape == (5, 32, 32, 32)
        known = (inside != 255).all()
        assert known
        for axis, affinity in enumerate(along):
            first, rest = affinity.narrow(axis, 0, 1), affinity.narrow(axis, 1, 31)
            assert (first == 255).all() and (rest != 255).all()
            before, after = inside.narrow(axis, 0, 31), inside.narrow(axis, 1, 31)
            assert (rest <= before * after).all()
            # Blocks of 4 voxels: most neighbours are of one object, and not all that touch are.
            share = rest[(before * after) == 1].float().mean()
            assert 0.75 < share < 0.95
        inner = distance[8:-8, 8:-8, 8:-8]
        assert ((inner > 0) == (inside[8:-8, 8:-8, 8:-8] == 1))[inner != 255].all()
        turned.add(tuple(a.float()[a != 255].mean().item() for a in along))
    assert len(turned) > 6


def test_tiles_beyond_the_last_say_nothing(crops):
    patches = Patches(crops, training(patch_size=48))
    _, target = patches.finish([patches.tiles._read(1)])
    assert (target == 255).all()


def test_unknown_voxels_are_masked_by_both_loaders(crops, tmp_path):
    ids = np.full(CROP_GRID.shape, 255, np.uint8)
    ids[:20] = 0
    ids[4:8] = 3
    encoding = {"annotation_type": {"encoding": {"absent": 0, "unknown": 255}}}
    attributes = {"cellmap": {"annotation": encoding}}
    create(tmp_path / "crop1/pm", CROP_GRID, "uint8", attributes).write(ids).result()
    crops[0].annotated = ["mito", "pm"]
    for loader in ("fast", "cellmap-data"):
        made = training(loader=loader, patch_size=48)
        target = Patches(crops, made).of_whole_crop()
        assert (target[2, :4] == 0).all() and (target[2, 4:8] == 1).all()
        assert (target[2, 20:] == 255).all() and (target[0] != 255).all()


def test_what_one_class_says_of_another(crops, tmp_path):
    (tmp_path / "classes.csv").write_text('mito,1,""\npm,2,""\ncell,3,"1,2"\n')
    made = training(
        classes=["mito", "pm", "cell"], mutual_exclusion=str(tmp_path / "classes.csv"),
        patch_size=48,
    )  # fmt: skip
    mito, _, pm, cell, edge = Patches(crops, made).of_whole_crop()
    assert (pm[mito == 1] == 0).all() and (pm[mito == 0] == 255).all()
    assert (cell[mito == 1] == 1).all() and (cell[mito == 0] == 255).all()
    assert (edge == 255).all()


def test_the_same_number_gives_the_same_patch(crops):
    a, b = Patches(crops, training()), Patches(crops, training())
    for number in (0, 7, 1_000_000):
        assert all(torch.equal(x, y) for x, y in zip(a[number], b[number], strict=True))
    assert not torch.equal(a[0][0], a[1][0])
    assert not torch.equal(a[0][0], Patches(crops, training(seed=1))[0][0])


def test_rare_classes_come_up(crops):
    patches = Patches(crops, training())
    share = np.mean([(patches[i][1][0] == 1).any() for i in range(40)])
    assert share > 0.9


def test_a_patch_larger_than_the_crop_is_unknown_outside(crops):
    _, target = Patches(crops, training(patch_size=48))[0]
    assert (target[0] != 255).sum() == 40 * 44 * 48


def test_objects_that_leave_the_crop_have_no_known_boundary_there(crops, tmp_path):
    ids = np.ones(CROP_GRID.shape, np.uint16)
    create(tmp_path / "crop1/mito", CROP_GRID, "uint16").write(ids).result()
    made = training(patch_size=48)
    target = Patches(crops, made).of_whole_crop()
    assert (target[1, 1:-1, 1:-1, 1:-1] == 0).all()
    assert (target[1, 0] == 255).all() and (target[1, :, :, -1] == 255).all()


def test_other_voxel_sizes(crops):
    crops[0].voxel_size = (16, 16, 16)
    raw, target = Patches(crops, training(voxel_size=16))[3]
    agree = ((raw > 0.6) == (target[0] == 1))[target[0] != 255].float().mean()
    assert agree > 0.95


def test_tiles_cover_the_crop_once_and_are_fixed(crops):
    tiles = Patches(crops, training()).tiles._read.__self__
    assert len(tiles) == 2 * 2 * 2
    seen = np.zeros(CROP_GRID.shape, int)
    for _, start in tiles.tiles:
        seen[tuple(slice(s, s + 32) for s in start)] += 1
    assert seen.min() == 1
    few = Patches(crops, training(validation_iterations=1)).tiles
    assert len(few._read.__self__) == 2 and len(few) == 1


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


def test_threads_and_memory_change_nothing(crops):
    finished = []
    for changes in ({}, {"num_workers": 3}, {"memory_gb": 0.5}):
        made = training(**changes)
        batches, _ = loaders({"train": crops, "validate": crops}, made)
        finish = Finisher(torch.device("cpu"), made.patch_size, made.voxel_size, made.channels)
        assert len(batches) == 3
        finished.append([tuple(part.clone() for part in finish(batch)) for batch in batches])
    for one, *others in zip(*finished, strict=True):
        assert all(torch.equal(x, y) for other in others for x, y in zip(one, other, strict=True))


def test_a_patch_that_cannot_be_read_ends_the_epoch(crops, tmp_path):
    for chunk in (tmp_path / "raw/s0").glob("*/*/*"):
        chunk.unlink()
    batches, _ = loaders({"train": crops, "validate": crops}, training())
    with pytest.raises(InputError, match="raw"):
        list(batches)


@pytest.mark.parametrize("way", [decode, gather])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_decoding_is_looking_up_in_the_table(way, dtype, seed, channels, n):
    rng = np.random.default_rng(seed)
    table = rng.choice([0, 1, 255], (n, channels)).astype(np.uint8)
    # Channels that are constant, or known everywhere, take a short way.
    table[:, ::3] = table[:1, ::3]
    table[:, 1::3] = table[:, 1::3] == 1
    codes = rng.integers(0, n, (3, 4, 5)).astype(dtype)
    if dtype == np.uint16:
        codes += 65000
        table = np.pad(table, ((65000, 0), (0, 0)), "edge")
    target = torch.empty((channels, 3, 4, 5), dtype=torch.uint8)
    sent = torch.from_numpy(codes if dtype == np.uint8 else codes.view(np.int16))
    way(sent, torch.from_numpy(table), target)
    assert np.array_equal(target, np.moveaxis(table[codes], -1, 0))


def test_positions_lie_on_the_class(crops):
    found = crops[0].positions("mito")
    assert len(found) == 500
    ids, _ = crops[0].labels["mito"].read(crops[0].grid)
    assert (ids[tuple(found.T)] > 0).all() and set(ids[tuple(found.T)]) == {1, 2}


def test_boxes_cover_an_array_or_are_spread_over_it():
    boxes = spread_boxes((70, 64, 10), 10**6)
    assert [start for start, _ in boxes] == [(0, 0, 0), (64, 0, 0)]
    assert [shape for _, shape in boxes] == [(64, 64, 10), (6, 64, 10)]
    spread = spread_boxes((640, 640, 640), 10 * 64**3)
    assert len(spread) == 10 and spread[0][0] == (0, 0, 0) and spread[-1][0] == (576, 576, 576)


def test_a_datasplit_row_without_its_classes_is_named(crops, tmp_path):
    path = tmp_path / "datasplit.csv"
    path.write_text(
        f"train,{tmp_path}/raw,{tmp_path}/crop1/[mito]\n"
        f"validate,{tmp_path}/raw,{tmp_path}/crop1/[pm]\n"
    )
    with pytest.raises(InputError, match="crop1 has none of pm"):
        open_crops(path, ["mito", "pm"], (8, 8, 8))
