import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellmap_pipeline.augment import (
    ROTATED,
    augment,
    orient,
    random_rotation,
    rotate,
    rotation_margin,
)
from cellmap_pipeline.config import Augmentation
from cellmap_pipeline.targets import UNKNOWN

OFF = dict(flip=False, transpose=False, rotate90=False, contrast=0, gamma=0, noise=0, blur=0)
EXACT = ["flip", "transpose", "rotate90"]
CUBE = (8.0, 8.0, 8.0)
QUIET = settings(max_examples=40, deadline=None)

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(*[st.sampled_from([3, 4, 6])] * 3)
voxel_sizes = st.tuples(*[st.sampled_from([3.48, 4.0, 8.0])] * 3)
exact_options = st.fixed_dictionaries({name: st.booleans() for name in EXACT})


def numbered(shape):
    """Raw whose voxels are all different, and the target that is made from it."""
    raw = np.arange(math.prod(shape), dtype=np.float32).reshape(shape) / math.prod(shape)
    return raw, made_from(raw)


def made_from(raw):
    return np.stack([raw * 250, 250 - raw * 250]).round().astype(np.uint8)


def blobs(shape, seed=0):
    """Smooth raw, and the target that is made from it."""
    noise = np.random.default_rng(seed).random(shape)
    raw = ndimage.gaussian_filter(noise, 3)
    raw = ((raw - raw.min()) / np.ptp(raw)).astype(np.float32)
    return raw, made_from(raw)


@given(seeds, shapes, voxel_sizes, exact_options)
@QUIET
def test_exact_movements_keep_every_voxel_and_take_the_target_along(seed, shape, voxel, options):
    raw, target = numbered(shape)
    before = raw.copy(), target.copy()
    rng = np.random.default_rng(seed)
    moved, moved_target = augment(raw, target, Augmentation(**OFF | options), rng, shape, voxel)
    assert moved.shape == shape
    assert np.array_equal(np.sort(moved, axis=None), np.sort(raw, axis=None))
    assert np.array_equal(moved_target, made_from(moved))
    assert moved.flags.c_contiguous and moved_target.flags.c_contiguous
    assert moved.dtype == np.float32 and moved_target.dtype == np.uint8
    # The arguments stay as they were.
    assert np.array_equal(raw, before[0]) and np.array_equal(target, before[1])


@given(seeds, shapes, voxel_sizes)
@QUIET
def test_axes_are_only_exchanged_for_their_like(seed, shape, voxel):
    options = Augmentation(**OFF | dict.fromkeys(EXACT, True))
    # Neighbours along an axis differ by one power of ten, so steps tell the axes apart.
    raw = sum(
        np.arange(n, dtype=np.float32).reshape([-1 if i == a else 1 for i in range(3)])
        / 10 ** (a + 1)
        for a, n in enumerate(shape)
    ).astype(np.float32)
    rng = np.random.default_rng(seed)
    moved, _ = augment(raw, made_from(raw), options, rng, shape, voxel)
    for axis in range(3):
        step = abs(np.diff(moved, axis=axis)).max()
        was = round(-math.log10(step)) - 1
        assert shape[was] == shape[axis] and voxel[was] == voxel[axis]


@pytest.mark.parametrize(
    ("options", "voxel", "count"),
    [
        ({"flip": True}, CUBE, 8),
        ({"transpose": True}, CUBE, 6),
        ({"rotate90": True}, CUBE, 24),
        ({"flip": True, "transpose": True}, CUBE, 48),
        ({"transpose": True}, (3.48, 4.0, 4.0), 2),
        ({"rotate90": True}, (3.48, 4.0, 4.0), 8),
        ({"rotate90": True}, (2.0, 3.0, 4.0), 4),
        ({}, CUBE, 1),
    ],
)
def test_all_symmetries_of_the_voxels_come_up_and_no_other(options, voxel, count):
    raw, target = numbered((3, 3, 3))
    rng = np.random.default_rng(0)
    settings = Augmentation(**OFF | options)
    seen = {
        augment(raw, target, settings, rng, (3, 3, 3), voxel)[0].tobytes()
        for _ in range(12 * count)
    }
    assert len(seen) == count


def test_rotate90_never_mirrors():
    corners = np.zeros((3, 3, 3), np.float32)
    corners[2, 1, 1], corners[1, 2, 1], corners[1, 1, 2] = 0.1, 0.2, 0.3
    rng = np.random.default_rng(0)
    for _ in range(50):
        options = Augmentation(**OFF | {"rotate90": True})
        moved, _ = augment(corners, made_from(corners), options, rng, (3, 3, 3), CUBE)
        axes = [np.argwhere(np.isclose(moved, v))[0] - 1 for v in (0.1, 0.2, 0.3)]
        assert np.linalg.det(np.array(axes)) == pytest.approx(1)


@given(shapes, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
@QUIET
def test_an_orientation_can_be_undone(shape, axes, flips):
    raw, target = numbered(shape)
    back = np.argsort(axes)
    for array in (raw, target):
        moved = orient(array, axes, flips)
        undone = orient(moved, back, [flips[a] for a in back])
        assert np.array_equal(undone, array)


@given(seeds, st.floats(0, 180), voxel_sizes, st.tuples(*[st.integers(1, 9)] * 3))
@QUIET
def test_the_margin_holds_whatever_rotation_comes(seed, degrees, voxel, patch):
    shape = rotation_margin(patch, degrees, voxel)
    assert all(n >= p and (n - p) % 2 == 0 for n, p in zip(shape, patch, strict=True))
    rng = np.random.default_rng(seed)
    raw, target = np.full(shape, 0.5, np.float32), np.zeros((1, *shape), np.uint8)
    _, turned = rotate(raw, target, random_rotation(degrees, rng), patch, voxel)
    assert (turned == 0).all()


def test_the_margin_is_no_larger_than_it_must_be():
    assert rotation_margin((9, 9, 9), 0, CUBE) == (9, 9, 9)
    # Half the diagonal of 8 steps is 6.93; 45° about an axis bring 5.66 and about others more.
    assert rotation_margin((9, 9, 9), 180, CUBE) == (15, 15, 15)
    assert rotation_margin((128, 128, 128), 180, CUBE) == (222, 222, 222)
    # A thin patch reaches along z when it is turned up; coarse voxels along z need fewer.
    assert rotation_margin((1, 9, 9), 90, CUBE) == (13, 13, 13)
    assert rotation_margin((1, 9, 9), 90, (16.0, 8.0, 8.0)) == (7, 13, 13)


@given(seeds, st.floats(1, 180))
@QUIET
def test_rotations_are_rotations_by_no_more_than_asked(seed, degrees):
    matrix = random_rotation(degrees, np.random.default_rng(seed))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    angle = math.degrees(math.acos(np.clip((np.trace(matrix) - 1) / 2, -1, 1)))
    assert angle <= degrees + 1e-5


def test_no_rotation_keeps_the_centre():
    raw, target = numbered((7, 9, 8))
    turned, turned_target = rotate(raw, target, np.eye(3), (3, 5, 4), CUBE)
    np.testing.assert_allclose(turned, raw[2:5, 2:7, 2:6], atol=1e-6)
    assert np.array_equal(turned_target, target[:, 2:5, 2:7, 2:6])


@pytest.mark.parametrize("voxel", [CUBE, (8.0, 4.0, 4.0)])
def test_quarter_turns_are_those_of_the_axes(voxel):
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    raw, target = numbered((5, 6, 6))
    turned, turned_target = rotate(raw, target, quarter, (5, 6, 6), voxel)
    np.testing.assert_allclose(turned, np.rot90(raw, -1, (1, 2)), atol=1e-5)
    assert np.array_equal(turned_target, np.rot90(target, -1, (2, 3)))


@given(seeds, st.sampled_from([CUBE, (6.0, 8.0, 8.0)]))
@settings(max_examples=15, deadline=None)
def test_a_rotation_and_its_inverse_cancel(seed, voxel):
    raw, target = blobs((40, 40, 40))
    matrix = random_rotation(180, np.random.default_rng(seed))
    turned = rotate(raw, target, matrix, (24, 24, 24), voxel)
    back, back_target = rotate(*turned, matrix.T, (10, 10, 10), voxel)
    np.testing.assert_allclose(back, raw[15:25, 15:25, 15:25], atol=0.05)
    difference = back_target.astype(int) - target[:, 15:25, 15:25, 15:25]
    # At most two voxels beside its place, in a target that changes by less than 20 a voxel.
    assert abs(difference).max() < 40 and abs(difference).mean() < 8


@given(seeds, st.floats(5, 180), st.sampled_from([CUBE, (6.0, 8.0, 8.0)]))
@QUIET
def test_rotated_raw_and_target_stay_together(seed, degrees, voxel):
    raw, target = blobs(rotation_margin((12, 12, 12), degrees, voxel), seed)
    rotation = random_rotation(degrees, np.random.default_rng(seed))
    turned, turned_target = rotate(raw, target, rotation, (12, 12, 12), voxel)
    # The nearest voxel lies at most half a voxel off along each axis.
    steepest = sum(abs(np.diff(raw, axis=a)).max() for a in range(3)) / 2
    difference = turned_target / 250 - np.stack([turned, 1 - turned])
    assert abs(difference).max() <= steepest + 1 / 250


def test_a_world_rotation_keeps_lengths_where_voxels_are_not_cubes():
    # A rod of 84 nm along x, 8 nm thick along z, turned up: 10.5 voxels along z, 2 along x.
    target = np.zeros((1, 21, 41, 41), np.uint8)
    target[0, 10, 20, 10:31] = 1
    up = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    raw = target[0].astype(np.float32)
    _, turned = rotate(raw, target, up, (21, 41, 41), (8.0, 4.0, 4.0))
    assert [len(set(axis)) for axis in np.nonzero(turned[0])] == [11, 1, 2]


def test_outside_is_unknown():
    raw, target = np.full((4, 4, 16), 0.7, np.float32), np.zeros((1, 4, 4, 16), np.uint8)
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    turned, turned_target = rotate(raw, target, quarter, (4, 4, 16), CUBE)
    np.testing.assert_allclose(turned, 0.7, rtol=1e-6)
    assert (turned_target[..., 6:10] == 0).all()
    assert (turned_target[..., :6] == UNKNOWN).all() and (turned_target[..., 10:] == UNKNOWN).all()


ALL = Augmentation(rotate=180, contrast=0.5, gamma=0.5, noise=0.2, blur=2)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_same_state_gives_the_same_patch_and_values_stay_in_range(seed):
    raw, target = blobs(rotation_margin((8, 8, 8), 180, CUBE), 1)
    raw[0], raw[-1] = 0, 1
    first, second = (
        augment(raw, target, ALL, np.random.default_rng(seed), (8, 8, 8), CUBE) for _ in range(2)
    )
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    changed, changed_target = first
    assert changed.shape == (8, 8, 8) and changed_target.shape == (2, 8, 8, 8)
    assert changed.dtype == np.float32 and changed_target.dtype == np.uint8
    assert np.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 1


def test_rotation_comes_in_its_share_of_patches():
    raw, target = blobs(rotation_margin((4, 4, 4), 90, CUBE))
    options = Augmentation(**OFF | {"rotate": 90})
    rng = np.random.default_rng(0)
    straight = (np.array(raw.shape) - 4) // 2
    centre = raw[tuple(slice(s, s + 4) for s in straight)]
    same = [
        np.array_equal(augment(raw, target, options, rng, (4, 4, 4), CUBE)[0], centre)
        for _ in range(400)
    ]
    assert np.mean(same) == pytest.approx(1 - ROTATED, abs=0.1)


def spread(option, measure, patches=200):
    """What `measure` says of a patch of 0.5 ± 0.1 under many draws of one option."""
    raw = np.full((6, 6, 6), 0.5, np.float32)
    raw[::2] += 0.1
    raw[1::2] -= 0.1
    target = made_from(raw)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(patches):
        changed, kept = augment(raw, target, Augmentation(**OFF | option), rng, raw.shape, CUBE)
        assert np.array_equal(kept, target)
        found.append(measure(changed))
    return min(found), max(found)


def test_contrast_changes_range_and_mean_by_as_much_as_asked():
    low, high = spread({"contrast": 0.3}, lambda raw: np.ptp(raw) / 0.2)
    assert 0.7 <= low < 0.75 and 1.25 < high <= 1.3
    low, high = spread({"contrast": 0.3}, lambda raw: raw.mean() - 0.5)
    assert -0.15 <= low < -0.13 and 0.13 < high <= 0.15


def test_gamma_goes_both_ways():
    low, high = spread({"gamma": 0.5}, lambda raw: math.log(raw.max()) / math.log(0.6))
    assert 1 / 1.5 - 1e-5 <= low < 0.7 and 1.45 < high <= 1.5 + 1e-5


def test_noise_has_up_to_the_spread_asked_for():
    low, high = spread({"noise": 0.05}, lambda raw: (raw[::2] - 0.6).std())
    assert low < 0.005 and 0.045 < high < 0.06


def test_blur_evens_out_and_keeps_the_mean():
    low, high = spread({"blur": 2.0}, lambda raw: (raw[2] - raw[3]).mean())
    assert low < 0.04 and high == pytest.approx(0.2, rel=0.01)
    low, high = spread({"blur": 2.0}, np.mean)
    assert low == pytest.approx(0.5, abs=1e-3) and high == pytest.approx(0.5, abs=1e-3)


def test_a_blur_in_place_is_that_of_scipy():
    raw, target = blobs((9, 9, 9))
    raw = np.random.default_rng(0).random(raw.shape, np.float32)
    options = Augmentation(**OFF | {"blur": 2.0})
    changed, _ = augment(raw, target, options, np.random.default_rng(5), raw.shape, CUBE)
    sigma = np.random.default_rng(5).uniform(0, 2.0)
    expected = ndimage.gaussian_filter(raw, sigma, mode="nearest", truncate=3)
    np.testing.assert_allclose(changed, expected, atol=1e-6)
