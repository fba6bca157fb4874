"""All raw that a training reads lies within the reach for which it is fetched."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.patches.augmentation import draw_transform, shape_to_read
from cellmap_pipeline.patches.sampling import RandomPatches
from cellmap_pipeline.plan.contents import raw_reach
from cellmap_pipeline.prediction import predict

PATCHES = st.tuples(st.just(32), *[st.sampled_from([16, 32, 48])] * 2)


def training(patch_size, voxel_size, rotate=0, overlap=0.5):
    return Training.model_validate(
        {
            "classes": ["mito"], "voxel_size": voxel_size, "patch_size": patch_size,
            "model": {"architecture": "monai_basic_unet3d"}, "augment": {"rotate": rotate},
            "inference": {"overlap": overlap},
        }
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 60)] * 3),
    patch_size=PATCHES,
    voxel_size=st.sampled_from([(8, 8, 8), (45, 9, 9), (4, 8, 4)]),
    rotate=st.sampled_from([0, 20, 180]),
    seed=st.integers(0, 100),
)
def test_patches_to_train_on(shape, patch_size, voxel_size, rotate, seed):
    made = training(patch_size, voxel_size, rotate)
    crop = SimpleNamespace(grid=Grid(voxel_size, (0, 0, 0), shape), present_classes=[])
    patches = RandomPatches([SimpleNamespace(crop=crop)], made)
    beyond = np.array(raw_reach(made).beyond_trained(shape))
    rng = np.random.default_rng(seed)
    for _ in range(10):
        transform = draw_transform(made.augment, rng, made.patch_size, made.voxel_size)
        read = shape_to_read(transform, made.patch_size, made.voxel_size)
        _, start = patches._draw_location(rng, read)
        assert np.all(np.array(start) >= -beyond)
        assert np.all(np.add(start, read) <= shape + beyond)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 60)] * 3),
    patch_size=PATCHES,
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
def test_windows_that_predict(shape, patch_size, overlap):
    made = training(patch_size, 8, overlap=overlap)
    crop = Grid((8, 8, 8), (0, 0, 0), shape)
    raw = SimpleNamespace(available=lambda grid, core: grid)
    _, region = predict._region(raw, crop, made.window, made.context)
    assert crop.padded(raw_reach(made).beyond_predicted(shape)).covers(region)
