import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellmap_pipeline.config.sections import Augmentation
from cellmap_pipeline.patches.augmentation import (
    ROTATED_SHARE,
    PatchTransform,
    draw_transform,
    orient,
    random_rotation,
    rotate,
    shape_to_read,
    transform_intensity,
    transform_patch,
)

OFF = dict(flip=False, transpose=False, rotate90=False, contrast=0, gamma=0, noise=0, blur=0)
EXACT = ["flip", "transpose", "rotate90"]
CUBE = (8.0, 8.0, 8.0)
QUIET = settings(max_examples=40, deadline=None)

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(*[st.sampled_from([3, 4, 6])] * 3)
voxel_sizes = st.tuples(*[st.sampled_from([3.48, 4.0, 8.0])] * 3)
exact_options = st.fixed_dictionaries({name: st.booleans() for name in EXACT})


def numbered(shape):
    """Raw whose voxels all differ, and codes that number them."""
    codes = torch.arange(1, math.prod(shape) + 1, dtype=torch.int32).reshape(shape)
    return codes.float() / (math.prod(shape) + 1), codes


def blobs(shape, seed=0):
    """Smooth raw, and codes that follow it."""
    noise = np.random.default_rng(seed).random(shape)
    raw = ndimage.gaussian_filter(noise, 3)
    raw = torch.from_numpy(((raw - raw.min()) / np.ptp(raw)).astype(np.float32))
    return raw, (raw * 1000).round().int() + 1


def transformed(transform, raw, codes, patch, voxel):
    """Raw and codes after a transform."""
    out = torch.empty(patch)
    return out, transform_patch(raw, codes, transform, patch, voxel, out)


def with_intensity(raw, transform):
    """Raw after the intensity steps of a transform."""
    changed = raw.clone()
    transform_intensity(changed, transform)
    return changed


def augment(raw, codes, options, rng, patch, voxel):
    return transformed(draw_transform(options, rng, patch, voxel), raw, codes, patch, voxel)


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


@given(shapes, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
@QUIET
def test_an_orientation_can_be_undone(shape, axes, flips):
    _, codes = numbered(shape)
    back = np.argsort(axes).tolist()
    moved = orient(codes, axes, flips)
    assert torch.equal(orient(moved, back, [flips[a] for a in back]), codes)


@given(seeds, st.floats(0, 180), voxel_sizes, st.tuples(*[st.integers(1, 9)] * 3))
@QUIET
def test_the_shape_read_contains_the_rotated_patch(seed, degrees, voxel, patch):
    transform = PatchTransform(random_rotation(degrees, np.random.default_rng(seed)))
    shape = shape_to_read(transform, patch, voxel)
    assert all(n >= p and (n - p) % 2 == 0 for n, p in zip(shape, patch, strict=True))
    codes = torch.ones(shape, dtype=torch.int32)
    _, rotated = rotate(codes.float(), codes, transform.rotation, patch, voxel)
    assert (rotated == 1).all()


def test_the_shape_read_is_as_small_as_possible():
    assert shape_to_read(PatchTransform(), (9, 9, 9), CUBE) == (9, 9, 9)
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert shape_to_read(PatchTransform(quarter), (9, 9, 9), CUBE) == (9, 9, 9)
    # A thin patch extends along z when it is rotated; coarse voxels along z need fewer.
    up = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert shape_to_read(PatchTransform(up), (1, 9, 9), CUBE) == (9, 9, 9)
    assert shape_to_read(PatchTransform(up), (1, 9, 9), (16.0, 8.0, 8.0)) == (5, 9, 9)
    # 45° about x: a square's half diagonal, 5.66 of 4 steps.
    part = math.sqrt(0.5)
    turn = np.array([[part, -part, 0], [part, part, 0], [0, 0, 1]])
    assert shape_to_read(PatchTransform(turn), (9, 9, 9), CUBE) == (13, 13, 9)


@given(seeds, st.floats(1, 180))
@QUIET
def test_rotations_are_rotations_by_no_more_than_the_limit(seed, degrees):
    matrix = random_rotation(degrees, np.random.default_rng(seed))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    angle = math.degrees(math.acos(np.clip((np.trace(matrix) - 1) / 2, -1, 1)))
    assert angle <= degrees + 1e-5


def test_identity_rotation_keeps_the_center():
    raw, codes = numbered((7, 9, 8))
    rotated, rotated_codes = rotate(raw, codes, np.eye(3), (3, 5, 4), CUBE)
    np.testing.assert_allclose(rotated, raw[2:5, 2:7, 2:6], atol=1e-6)
    assert torch.equal(rotated_codes, codes[2:5, 2:7, 2:6])


@pytest.mark.parametrize("voxel", [CUBE, (8.0, 4.0, 4.0)], ids=str)
def test_rotations_by_90_degrees_permute_axes(voxel):
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    raw, codes = numbered((5, 6, 6))
    rotated, rotated_codes = rotate(raw, codes, quarter, (5, 6, 6), voxel)
    np.testing.assert_allclose(rotated, np.rot90(raw, -1, (1, 2)), atol=1e-5)
    assert np.array_equal(rotated_codes, np.rot90(codes, -1, (1, 2)))


@given(seeds, st.sampled_from([CUBE, (6.0, 8.0, 8.0)]))
@settings(max_examples=15, deadline=None)
def test_rotation_agrees_with_scipy(seed, voxel):
    rotation = random_rotation(180, np.random.default_rng(seed))
    raw, codes = blobs(shape_to_read(PatchTransform(rotation), (20, 20, 20), voxel), seed)
    rotated, rotated_codes = rotate(raw, codes, rotation, (20, 20, 20), voxel)
    matrix = rotation * voxel / np.array(voxel)[:, None]
    offset = (np.array(raw.shape) - 1) / 2 - matrix @ np.full(3, 9.5)
    expected = ndimage.affine_transform(raw, matrix, offset, (20, 20, 20), order=1, mode="nearest")
    np.testing.assert_allclose(rotated, expected, atol=1e-4)
    nearest = ndimage.affine_transform(codes, matrix, offset, (20, 20, 20), order=0)
    # A position halfway between two voxels may get the value of either.
    assert (rotated_codes.numpy() == nearest).mean() > 0.999


def test_a_world_rotation_keeps_lengths_where_voxels_are_not_cubes():
    # A rod of 84 nm along x, 8 nm thick along z, rotated to z: 10.5 voxels along z, 2 along x.
    codes = torch.zeros((21, 41, 41), dtype=torch.int32)
    codes[10, 20, 10:31] = 1
    up = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    _, rotated = rotate(codes.float(), codes, up, (21, 41, 41), (8.0, 4.0, 4.0))
    assert [len(set(axis)) for axis in np.nonzero(rotated.numpy())] == [11, 1, 2]


def test_voxels_from_outside_are_unknown():
    raw, codes = torch.full((4, 4, 16), 0.7), torch.ones((4, 4, 16), dtype=torch.int32)
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    rotated, rotated_codes = rotate(raw, codes, quarter, (4, 4, 16), CUBE)
    np.testing.assert_allclose(rotated, 0.7, rtol=1e-6)
    assert (rotated_codes[..., 6:10] == 1).all()
    assert (rotated_codes[..., :6] == 0).all() and (rotated_codes[..., 10:] == 0).all()


ALL = Augmentation(rotate=180, contrast=0.5, gamma=0.5, noise=0.2, blur=2)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_same_state_gives_the_same_patch_and_values_stay_in_range(seed):
    patch = (8, 8, 8)
    first, second = (
        draw_transform(ALL, np.random.default_rng(seed), patch, CUBE) for _ in range(2)
    )
    raw, codes = blobs(shape_to_read(first, patch, CUBE), 1)
    raw[0], raw[-1] = 0, 1
    changed, changed_codes = transformed(first, raw, codes, patch, CUBE)
    again, again_codes = transformed(second, raw, codes, patch, CUBE)
    assert torch.equal(changed, again) and torch.equal(changed_codes, again_codes)
    assert changed.shape == patch and changed_codes.shape == patch
    assert changed.dtype == torch.float32 and changed_codes.dtype == torch.int32
    assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1


def test_the_share_of_rotated_patches():
    options = Augmentation(**OFF | {"rotate": 90})
    rng = np.random.default_rng(0)
    drawn = [draw_transform(options, rng, (4, 4, 4), CUBE).rotation for _ in range(400)]
    assert np.mean([rotation is not None for rotation in drawn]) == pytest.approx(
        ROTATED_SHARE, abs=0.1
    )


def spread(option, measure, patches=200):
    """Range of `measure` over many transforms, with one option, of a patch of 0.5 ± 0.1."""
    raw = torch.full((6, 6, 6), 0.5)
    raw[::2] += 0.1
    raw[1::2] -= 0.1
    rng = np.random.default_rng(0)
    options = Augmentation(**OFF | option)
    transforms = [draw_transform(options, rng, (6, 6, 6), CUBE) for _ in range(patches)]
    found = [measure(with_intensity(raw, transform).numpy()) for transform in transforms]
    return min(found), max(found)


def test_contrast_changes_range_and_mean_within_its_limit():
    low, high = spread({"contrast": 0.3}, lambda raw: np.ptp(raw) / 0.2)
    assert 0.7 <= low < 0.75 and 1.25 < high <= 1.3 + 1e-5
    low, high = spread({"contrast": 0.3}, lambda raw: raw.mean() - 0.5)
    assert -0.15 - 1e-5 <= low < -0.13 and 0.13 < high <= 0.15 + 1e-5


def test_gamma_goes_both_ways():
    low, high = spread({"gamma": 0.5}, lambda raw: math.log(raw.max()) / math.log(0.6))
    assert 1 / 1.5 - 1e-5 <= low < 0.7 and 1.45 < high <= 1.5 + 1e-5


def test_noise_is_within_its_limit():
    low, high = spread({"noise": 0.05}, lambda raw: (raw[::2] - 0.6).std())
    assert low < 0.005 and 0.045 < high < 0.06


def test_blur_smooths_and_keeps_the_mean():
    low, high = spread({"blur": 2.0}, lambda raw: (raw[2] - raw[3]).mean())
    assert low < 0.04 and high == pytest.approx(0.2, rel=0.01)
    low, high = spread({"blur": 2.0}, np.mean)
    assert low == pytest.approx(0.5, abs=1e-3) and high == pytest.approx(0.5, abs=1e-3)


def test_blur_agrees_with_scipy():
    raw = np.random.default_rng(0).random((9, 9, 9), np.float32)
    for sigma in (0.3, 1.0, 1.9):
        changed = with_intensity(torch.from_numpy(raw), PatchTransform(blur=sigma))
        expected = ndimage.gaussian_filter(raw, sigma, mode="nearest", truncate=3)
        np.testing.assert_allclose(changed, expected, atol=1e-6)
