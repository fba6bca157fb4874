"""Raw and targets of batches, as the network gets them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.patches.batches import BatchBuilder, decode_by_gather, decode_targets
from cellmap_pipeline.patches.crops import CropData
from tests.support.patches import CROP_GRID, Patches, training
from tests.support.transforms import UNCHANGED_RAW


@pytest.mark.parametrize("loader", ["fast", "cellmap-data"])
@pytest.mark.parametrize(("rotate", "scaling"), [(0, 0), (180, 0), (0, {}), (180, {})])
def test_raw_and_targets_are_aligned(crops, loader, rotate, scaling):
    augment = UNCHANGED_RAW | {"rotate": rotate, "scaling": scaling}
    patches = Patches(crops, training(loader=loader, augment=augment))
    for number in range(20):
        raw, target = patches[number]
        assert raw.shape == (32, 32, 32) and raw.dtype == torch.float32
        assert target.shape == (3, 32, 32, 32) and target.dtype == torch.uint8
        # A resampled voxel at the border of an object may fall on either side.
        agree = ((raw > 0.59) == (target[0] == 1))[target[0] != 255].float().mean()
        assert agree == 1 if rotate == scaling == 0 else agree > 0.97
        assert (target[2] == 255).all()
        assert ((target[1] == 1) <= (target[0] == 1)).all()


def test_official_loader_reads_the_same_voxels(crops):
    fast, official = (Patches(crops, training(loader=name)) for name in ("fast", "cellmap-data"))
    for number in range(10):
        raw, target = fast[number]
        other_raw, other = official[number]
        assert torch.equal(raw, other_raw)
        # The official reader does not see neighbors beyond the faces of a patch.
        inner = (slice(None), *[slice(1, -1)] * 3)
        assert torch.equal(target[inner], other[inner])
        assert torch.equal(target[0], other[0])


@pytest.mark.parametrize("loader", ["fast", "cellmap-data"])
def test_affinities_and_distances_are_computed_after_augmentation(crops, tmp_path, loader):
    """Affinities depend on directions: they are computed after the patch is transformed."""
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
            # Blocks of 4 voxels: most neighbors are of the same object, but not all.
            share = rest[(before * after) == 1].float().mean()
            assert 0.75 < share < 0.95
        inner = distance[8:-8, 8:-8, 8:-8]
        assert ((inner > 0) == (inside[8:-8, 8:-8, 8:-8] == 1))[inner != 255].all()
        turned.add(tuple(a.float()[a != 255].mean().item() for a in along))
    assert len(turned) > 6


@pytest.mark.parametrize("loader", ["fast", "cellmap-data"])
def test_descriptors_are_computed_after_augmentation(crops, tmp_path, loader):
    """Where an object begins along an axis, the rest of it lies ahead."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, (10, 11, 12)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    create(tmp_path / "crop1/ves", CROP_GRID, "uint16").write(ids.astype(np.uint16)).result()
    opened = [CropData(tmp_path / "raw", tmp_path / "crop1", ["ves"], (8, 8, 8))]
    targets = {"ves": ["affinities", {"descriptors": {"sigma_nm": 16}}]}
    patches = Patches(opened, training(classes=["ves"], targets=targets, loader=loader))
    seen = set()
    for number in range(4):
        _, target = patches[number]
        inside, along, descriptors = target[0] == 1, target[1:4], target[4:]
        assert len(descriptors) == 10
        assert (descriptors[:, ~inside] == 255).all()
        known = (descriptors != 255).all(0)
        assert known[inside].float().mean() > 0.9
        for axis in range(3):
            begins = (along[axis] == 0) & known
            begins[..., :4], begins[..., -4:] = False, False
            ahead = descriptors[axis, begins].float()
            assert (ahead > 127).float().mean() > 0.75
            assert ahead.mean() > 140
        seen.add(descriptors[0].sum().item())
    assert len(seen) == 4


@pytest.mark.parametrize(("scale", "depths"), [(0.5, {2, 4, 6, 8}), (1.5, {1, 2, 3, 4})])
def test_distances_of_scaled_patches_are_those_of_the_scaled_objects(
    crops, tmp_path, scale, depths
):
    """Along y there is a slab of 12 voxels at 16..27: distances of 1 to 6 from both sides."""
    ids = np.zeros(CROP_GRID.shape, np.uint16)
    ids[:, 16:28] = 1
    create(tmp_path / "crop1/ves", CROP_GRID, "uint16").write(ids).result()
    opened = [CropData(tmp_path / "raw", tmp_path / "crop1", ["ves"], (8, 8, 8))]
    augment = UNCHANGED_RAW | {"scaling": {"probability": 1, "range": [scale, scale]}}
    made = training(
        classes=["ves"], targets={"ves": ["distance"]},
        augment=augment | {"transpose": False, "rotate90": False, "flip": False},
    )  # fmt: skip
    _, target = Patches(opened, made)[0]
    inside, distance = target
    assert set(distance[inside == 1].unique().tolist()) == depths
    assert (distance[inside == 0] == 0).all()


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


def test_targets_implied_by_other_classes(crops, tmp_path):
    (tmp_path / "classes.csv").write_text('mito,1,""\npm,2,""\ncell,3,"1,2"\n')
    made = training(
        classes=["mito", "pm", "cell"], mutual_exclusion=str(tmp_path / "classes.csv"),
        patch_size=48,
    )  # fmt: skip
    mito, _, pm, cell, edge = Patches(crops, made).of_whole_crop()
    assert (pm[mito == 1] == 0).all() and (pm[mito == 0] == 255).all()
    assert (cell[mito == 1] == 1).all() and (cell[mito == 0] == 255).all()
    assert (edge == 255).all()


def test_voxels_outside_the_crop_are_unknown(crops):
    _, target = Patches(crops, training(patch_size=48))[0]
    assert (target[0] != 255).sum() == 40 * 44 * 48


def test_boundaries_at_the_faces_of_the_crop_are_unknown(crops, tmp_path):
    ids = np.ones(CROP_GRID.shape, np.uint16)
    create(tmp_path / "crop1/mito", CROP_GRID, "uint16").write(ids).result()
    made = training(patch_size=48)
    target = Patches(crops, made).of_whole_crop()
    assert (target[1, 1:-1, 1:-1, 1:-1] == 0).all()
    assert (target[1, 0] == 255).all() and (target[1, :, :, -1] == 255).all()


def test_patches_at_another_voxel_size(crops):
    crops[0].voxel_size = (16, 16, 16)
    raw, target = Patches(crops, training(voxel_size=16))[3]
    agree = ((raw > 0.6) == (target[0] == 1))[target[0] != 255].float().mean()
    assert agree > 0.95


@pytest.mark.parametrize("decode", [decode_targets, decode_by_gather])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_decoding_is_a_table_lookup(decode, dtype, seed, channels, n):
    rng = np.random.default_rng(seed)
    table = rng.choice([0, 1, 255], (n, channels)).astype(np.uint8)
    # Constant channels, and channels known everywhere, are decoded by comparison.
    table[:, ::3] = table[:1, ::3]
    table[:, 1::3] = table[:, 1::3] == 1
    codes = rng.integers(0, n, (3, 4, 5)).astype(dtype)
    if dtype == np.uint16:
        codes += 65000
        table = np.pad(table, ((65000, 0), (0, 0)), "edge")
    target = torch.empty((channels, 3, 4, 5), dtype=torch.uint8)
    sent = torch.from_numpy(codes if dtype == np.uint8 else codes.view(np.int16))
    decode(sent, torch.from_numpy(table), target)
    assert np.array_equal(target, np.moveaxis(table[codes], -1, 0))


class CopiesToDevice(TorchDispatchMode):
    """Notes of each copy from the host to another device whether it is asynchronous."""

    def __init__(self):
        super().__init__()
        self.asynchronous = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            device = kwargs.get("device")
            if device is not None and device.type != "cpu":
                self.asynchronous.append(kwargs.get("non_blocking", False))
        return function(*args, **kwargs)


@pytest.mark.parametrize("rotate", [0, 180])
def test_no_batch_waits_for_the_device(crops, rotate):
    """The device, torch's one without data, has no values that the host could wait for."""
    augment = {"rotate": rotate, "noise": 0, "scaling": {"probability": 1}}
    made = training(augment=augment)
    device = torch.device("meta")
    build = BatchBuilder(device, made.patch_size, made.voxel_size, made.channels)
    patches = [Patches(crops, made).train.read(i) for i in range(8)]
    with CopiesToDevice() as copies:
        raw, target = build(patches)
    assert raw.device == target.device == device
    assert len(copies.asynchronous) >= 3 * len(patches) and all(copies.asynchronous)
