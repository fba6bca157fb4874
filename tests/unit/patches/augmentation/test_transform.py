import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmap_pipeline.config.augmentation import Augmentation
from cellmap_pipeline.patches.augmentation.resampling import orient, resample
from cellmap_pipeline.patches.augmentation.transform import (
    PatchTransform,
    draw_transform,
    random_rotation,
    shape_to_read,
)
from tests.support.transforms import CUBE, OFF, augment, blobs, numbered, transformed

EXACT = ["flip", "transpose", "rotate90"]
QUIET = settings(max_examples=40, deadline=None)

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(*[st.sampled_from([3, 4, 6])] * 3)
voxel_sizes = st.tuples(*[st.sampled_from([3.48, 4.0, 8.0])] * 3)
patches = st.tuples(*[st.integers(1, 9)] * 3)
exact_options = st.fixed_dictionaries({name: st.booleans() for name in EXACT})


@given(seeds, shapes, voxel_sizes, exact_options)
@QUIET
def test_exact_transforms_keep_every_voxel_and_move_labels_like_raw(seed, shape, voxel, options):
    raw, codes = numbered(shape)
    before = raw.clone(), codes.clone()
    rng = np.random.default_rng(seed)
    moved, moved_codes = augment(raw, codes, Augmentation(**OFF | options), rng, shape, voxel)
    assert moved.shape == shape
    assert torch.equal(moved.flatten().sort()[0], raw.flatten().sort()[0])
    assert torch.equal(moved_codes, (moved * (math.prod(shape) + 1)).round().int())
    assert moved.is_contiguous() and moved_codes.is_contiguous()
    # The arguments stay as they were.
    assert torch.equal(raw, before[0]) and torch.equal(codes, before[1])


def test_bytes_are_scaled_to_0_1():
    raw = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    moved, _ = transformed(PatchTransform(), raw, raw.int(), (3, 1, 1), CUBE)
    assert moved.flatten().tolist() == pytest.approx([0, 0.2, 1])


@given(seeds, shapes, voxel_sizes)
@QUIET
def test_axes_are_only_exchanged_where_shape_and_voxel_size_agree(seed, shape, voxel):
    options = Augmentation(**OFF | dict.fromkeys(EXACT, True))
    # Neighbours along an axis differ by one power of ten, so steps tell the axes apart.
    raw = sum(
        np.arange(n, dtype=np.float32).reshape([-1 if i == a else 1 for i in range(3)])
        / 10 ** (a + 1)
        for a, n in enumerate(shape)
    ).astype(np.float32)
    rng = np.random.default_rng(seed)
    codes = torch.zeros(shape, dtype=torch.int32)
    moved, _ = augment(torch.from_numpy(raw), codes, options, rng, shape, voxel)
    for axis in range(3):
        step = abs(np.diff(moved.numpy(), axis=axis)).max()
        was = round(-math.log10(step)) - 1
        assert shape[was] == shape[axis] and voxel[was] == voxel[axis]


@pytest.mark.parametrize(
    ("options", "voxel", "count"),
    [
        ({"flip": True}, CUBE, 8),
        ({"transpose": True}, CUBE, 6),
        ({"rotate90": True}, CUBE, 24),
        ({"flip": True, "transpose": True}, CUBE, 48),
        ({"flip": True, "transpose": True, "rotate90": True}, CUBE, 48),
        ({"transpose": True}, (3.48, 4.0, 4.0), 2),
        ({"rotate90": True}, (3.48, 4.0, 4.0), 8),
        ({"rotate90": True}, (2.0, 3.0, 4.0), 4),
        ({}, CUBE, 1),
    ],
    ids=str,
)
def test_exactly_the_symmetries_of_the_voxels_are_drawn(options, voxel, count):
    rng = np.random.default_rng(0)
    settings = Augmentation(**OFF | options)
    drawn = [draw_transform(settings, rng, (3, 3, 3), voxel) for _ in range(12 * count)]
    _, codes = numbered((3, 3, 3))
    seen = {orient(codes, c.axes, c.flips).numpy().tobytes() for c in drawn}
    assert len(seen) == count


def test_rotate90_never_mirrors():
    corners = torch.zeros((3, 3, 3), dtype=torch.int32)
    corners[2, 1, 1], corners[1, 2, 1], corners[1, 1, 2] = 1, 2, 3
    rng = np.random.default_rng(0)
    for _ in range(50):
        options = Augmentation(**OFF | {"rotate90": True})
        _, moved = augment(corners.float(), corners, options, rng, (3, 3, 3), CUBE)
        axes = [np.argwhere(moved.numpy() == v)[0] - 1 for v in (1, 2, 3)]
        assert np.linalg.det(np.array(axes)) == pytest.approx(1)


@given(seeds, st.floats(0, 180), st.floats(0.25, 4), voxel_sizes, patches)
@QUIET
def test_the_shape_read_contains_the_resampled_patch(seed, degrees, scale, voxel, patch):
    rotation = random_rotation(degrees, np.random.default_rng(seed))
    transform = PatchTransform(rotation, scale)
    shape = shape_to_read(transform, patch, voxel)
    assert all(n >= 1 and (n - p) % 2 == 0 for n, p in zip(shape, patch, strict=True))
    codes = torch.ones(shape, dtype=torch.int32)
    _, resampled = resample(codes.float(), codes, transform.linear, patch, voxel)
    assert (resampled == 1).all()


def test_the_shape_read_is_as_small_as_possible():
    assert shape_to_read(PatchTransform(), (9, 9, 9), CUBE) == (9, 9, 9)
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert shape_to_read(PatchTransform(quarter), (9, 9, 9), CUBE) == (9, 9, 9)
    # A thin patch extends along z when it is rotated; coarse voxels along z need fewer.
    up = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert shape_to_read(PatchTransform(up), (1, 9, 9), CUBE) == (9, 1, 9)
    assert shape_to_read(PatchTransform(up), (1, 9, 9), (16.0, 8.0, 8.0)) == (5, 1, 9)
    # 45° about x: a square's half diagonal, 5.66 of 4 steps.
    part = math.sqrt(0.5)
    turn = np.array([[part, -part, 0], [part, part, 0], [0, 0, 1]])
    assert shape_to_read(PatchTransform(turn), (9, 9, 9), CUBE) == (13, 13, 9)
    # 8 steps become 4, or 12.
    assert shape_to_read(PatchTransform(scale=0.5), (9, 9, 9), CUBE) == (5, 5, 5)
    assert shape_to_read(PatchTransform(scale=1.5), (9, 9, 9), (40.0, 4.0, 4.0)) == (13, 13, 13)
    # With the rotation, 1.5 · 5.66 steps.
    assert shape_to_read(PatchTransform(turn, 1.5), (9, 9, 9), CUBE) == (19, 19, 13)


@given(seeds, st.floats(0, 180))
@QUIET
def test_rotations_are_rotations_by_their_angle(seed, degrees):
    matrix = random_rotation(degrees, np.random.default_rng(seed))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    assert np.trace(matrix) == pytest.approx(1 + 2 * math.cos(math.radians(degrees)))


ranges = st.tuples(st.floats(0.25, 4), st.floats(0.25, 4)).map(sorted)


@given(seeds, st.sampled_from([0, 20, 60, 180]), st.just((1, 1)) | ranges, voxel_sizes, patches)
@QUIET
def test_no_more_is_read_than_the_margin(seed, degrees, scales, voxel, patch):
    rotate = {"probability": 0.7, "range": [0, degrees]}
    scaling = {"probability": 0.7, "range": list(scales)}
    options = Augmentation(**OFF | {"rotate": rotate, "scaling": scaling})
    rng = np.random.default_rng(seed)
    margin = options.resampling_margin(patch, voxel)
    for _ in range(20):
        shape = shape_to_read(draw_transform(options, rng, patch, voxel), patch, voxel)
        assert all(n <= p + 2 * m for n, p, m in zip(shape, patch, margin, strict=True))


@pytest.mark.parametrize("degrees", [0, 20, 180])
def test_the_margin_is_no_wider_than_needed(degrees):
    scaling = {"probability": 1, "range": [1.4, 1.4]}
    rotate = {"probability": 1, "range": [degrees, degrees]}
    options = Augmentation(**OFF | {"rotate": rotate, "scaling": scaling})
    rng = np.random.default_rng(0)
    patch, voxel = (16, 32, 48), (16.0, 8.0, 8.0)
    shapes = [
        shape_to_read(draw_transform(options, rng, patch, voxel), patch, voxel) for _ in range(3000)
    ]
    used = (np.max(shapes, axis=0) - patch) // 2
    assert (used >= np.array(options.resampling_margin(patch, voxel)) - 2).all()


def test_nothing_changes_when_all_is_off():
    raw, codes = numbered((4, 5, 6))
    transform = draw_transform(Augmentation(**OFF), np.random.default_rng(0), (4, 5, 6), CUBE)
    assert transform.linear is None
    moved, moved_codes = transformed(transform, raw, codes, (4, 5, 6), CUBE)
    assert torch.equal(moved, raw) and torch.equal(moved_codes, codes)


ALL = Augmentation.model_validate(
    {
        key: {"probability": 1}
        for key in (
            "scaling", "contrast", "brightness", "offset", "gamma", "inverted_gamma",
            "low_resolution", "blur", "noise", "missing_section", "shifted_section",
            "blurred_section",
        )
    }
    | {"rotate": {"probability": 1, "range": [0, 180]}}
)  # fmt: skip


@given(seeds, st.sampled_from([CUBE, (40.0, 8.0, 8.0)]))
@settings(max_examples=20, deadline=None)
def test_the_same_state_gives_the_same_patch_and_values_stay_in_range(seed, voxel):
    patch = (8, 8, 8)
    first, second = (
        draw_transform(ALL, np.random.default_rng(seed), patch, voxel) for _ in range(2)
    )
    raw, codes = blobs(shape_to_read(first, patch, voxel), 1)
    raw[0], raw[-1] = 0, 1
    changed, changed_codes = transformed(first, raw, codes, patch, voxel)
    again, again_codes = transformed(second, raw, codes, patch, voxel)
    assert torch.equal(changed, again) and torch.equal(changed_codes, again_codes)
    assert changed.shape == patch and changed_codes.shape == patch
    assert changed.dtype == torch.float32 and changed_codes.dtype == torch.int32
    assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1


def test_codes_depend_on_the_geometry_alone():
    patch = (8, 8, 8)
    transform = draw_transform(ALL, np.random.default_rng(0), patch, CUBE)
    raw, codes = blobs(shape_to_read(transform, patch, CUBE), 1)
    _, changed = transformed(transform, raw, codes, patch, CUBE)
    geometry = PatchTransform(transform.rotation, transform.scale, transform.axes, transform.flips)
    moved, moved_codes = transformed(geometry, raw, codes, patch, CUBE)
    assert torch.equal(changed, moved_codes)
    # Without changes of raw, raw and codes still agree.
    assert ((moved * 1000 + 1 - moved_codes).abs() < 100).all()


@pytest.mark.parametrize(
    ("option", "share"),
    [(90, 0.5), ({"range": [0, 90]}, 0.2), ({"probability": 1, "range": [90, 90]}, 1), (0, 0)],
)
def test_the_share_of_rotated_patches(option, share):
    options = Augmentation(**OFF | {"rotate": option})
    rng = np.random.default_rng(0)
    drawn = [draw_transform(options, rng, (4, 4, 4), CUBE).rotation for _ in range(400)]
    assert np.mean([rotation is not None for rotation in drawn]) == pytest.approx(share, abs=0.07)


def test_scales_are_as_often_above_1_as_below_in_equal_ratios():
    options = Augmentation(**OFF | {"scaling": {"probability": 1, "range": [0.5, 2]}})
    rng = np.random.default_rng(0)
    drawn = np.array([draw_transform(options, rng, (4, 4, 4), CUBE).scale for _ in range(2000)])
    assert drawn.min() >= 0.5 and drawn.max() <= 2
    assert (drawn > 1).mean() == pytest.approx(0.5, abs=0.04)
    assert (drawn > math.sqrt(2)).mean() == pytest.approx(0.25, abs=0.04)
