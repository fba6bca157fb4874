"""Local shape descriptors: against lsd-lite, against their definition, and on known shapes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lsd_lite import get_lsds
from scipy import ndimage

from cellmap_pipeline.channels import DESCRIPTOR_SUFFIXES
from cellmap_pipeline.patches import descriptors as module
from cellmap_pipeline.patches.descriptors import write_descriptors
from cellmap_pipeline.patches.targets import FRACTION_ONE, UNKNOWN

OFFSETS, VARIANCES, CORRELATIONS = slice(0, 3), slice(3, 6), slice(6, 9)
SIZE = 9
PAIRS = [(0, 1), (0, 2), (1, 2)]
# A stored descriptor is rounded by half a step.
STEP = 1 / FRACTION_ONE


def describe(ids, sigma_nm=24.0, voxel_size=(8, 8, 8)):
    """Return the descriptors (10, z, y, x) in 0..1, NaN where unknown."""
    out = torch.empty((len(DESCRIPTOR_SUFFIXES), *ids.shape), dtype=torch.uint8)
    write_descriptors(torch.from_numpy(ids.astype(np.int32)), sigma_nm, voxel_size, out)
    values = out.numpy()
    return np.where(values == UNKNOWN, np.nan, values / FRACTION_ONE)


def blocks(seed, shape, side, n):
    """Return random ids below `n`, the same in blocks, with a smooth outline of what is inside."""
    rng = np.random.default_rng(seed)
    size = [-(-length // side) for length in shape]
    ids = rng.integers(0, n, size)
    for axis in range(3):
        ids = ids.repeat(side, axis)
    return ids[tuple(map(slice, shape))]


def steps_to(voxels, place, sigma):
    """Return the offsets (n, 3) of voxels within reach of a place in sigma, and their weights."""
    steps = np.argwhere(voxels) - place
    steps = steps[(np.abs(steps) <= (3 * sigma + 0.5).astype(int)).all(1)] / sigma
    return steps, np.exp(-0.5 * steps**2).prod(1)


def touching(ids):
    """Find the objects that have an unknown neighbor."""
    unknown = ndimage.binary_dilation(ids < 0)
    return set(ids[unknown & (ids > 0)])


def by_hand(ids, sigma_nm, voxel_size):
    """Sum over all voxels within reach of each voxel, in float64."""
    found = np.full((10, *ids.shape), np.nan)
    sigma = sigma_nm / np.array(voxel_size)
    reach = (3 * sigma + 0.5).astype(int)
    totals = [
        np.exp(-0.5 * (np.arange(-r, r + 1) / s) ** 2).sum()
        for r, s in zip(reach, sigma, strict=True)
    ]
    for place in np.argwhere(ids > 0):
        label = ids[tuple(place)]
        _, of_unknown = steps_to(ids < 0, place, sigma)
        _, of_all = steps_to(np.ones_like(ids), place, sigma)
        if label in touching(ids) and of_unknown.sum() > 0.1 * of_all.sum():
            continue
        steps, weights = steps_to(ids == label, place, sigma)
        mean = np.average(steps, 0, weights)
        covariance = np.einsum("n,ni,nj->ij", weights, steps - mean, steps - mean) / weights.sum()
        variance = covariance.diagonal().clip(1e-6)
        correlation = [covariance[a, b] / np.sqrt(variance[a] * variance[b]) for a, b in PAIRS]
        found[(slice(None), *place)] = [
            *(0.5 + mean / 2), *variance, *(0.5 + np.array(correlation) / 2),
            weights.sum() / np.prod(totals),
        ]  # fmt: skip
    return found.clip(0, 1)


@pytest.mark.parametrize(
    ("sigma_nm", "voxel_size", "side"),
    [(80, (8, 8, 8), 12), (60, (30, 8, 8), 6), (16, (8, 8, 8), 4)],
)
def test_descriptors_are_those_of_lsd_lite(sigma_nm, voxel_size, side):
    ids = blocks(0, (22, 28, 26), side, 5)
    expected = get_lsds(ids, (float(sigma_nm),) * 3, voxel_size)
    found = describe(ids, sigma_nm, voxel_size)
    assert np.array_equal(np.isnan(found[0]), ids == 0)
    inside = ids > 0
    np.testing.assert_allclose(found[:, inside], expected[:, inside], atol=0.51 * STEP)


@given(
    st.data(),
    st.tuples(*[st.sampled_from([4.0, 8.0, 11.5])] * 3),
    st.floats(12, 40),
)
@settings(max_examples=40, deadline=None)
def test_descriptors_are_their_definition(data, voxel_size, sigma_nm):
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
    values = st.sampled_from([*[0, 1, 2] * 4, -1])
    ids = data.draw(hnp.arrays(np.int32, shape, elements=values))
    found = describe(ids, sigma_nm, voxel_size)
    np.testing.assert_allclose(found, by_hand(ids, sigma_nm, voxel_size), atol=0.52 * STEP)


def test_a_slab_at_a_time_is_the_same(monkeypatch):
    ids = blocks(1, (12, 13, 14), 3, 6)
    expected = describe(ids)
    monkeypatch.setitem(module.MAX_SLAB_VOXELS, "cpu", 1)
    np.testing.assert_array_equal(describe(ids), expected)


def test_descriptors_of_known_shapes():
    """A rod along x, seen from its ends and its middle, and a plane diagonal in z and y."""
    ids = np.zeros((9, 9, 41), int)
    ids[4, 4] = 7
    rod = describe(ids)[:, 4, 4]
    np.testing.assert_allclose(rod[:2], 0.5, atol=STEP)
    np.testing.assert_allclose(rod[2, 20], 0.5, atol=STEP)
    # The mean of half a Gaussian is √(2/π) sigma away, the rod's own voxel counted in full.
    assert 0.8 < rod[2, 0] < 0.5 + np.sqrt(2 / np.pi) / 2
    np.testing.assert_allclose(rod[2] + rod[2, ::-1], 1, atol=STEP)
    np.testing.assert_allclose(rod[VARIANCES, 20], [0, 0, 0.97], atol=0.02)
    np.testing.assert_allclose(rod[CORRELATIONS], 0.5, atol=STEP)
    assert 0 < rod[SIZE, 0] < rod[SIZE, 20]
    ids = np.zeros((21, 21, 9), int)
    ids[np.arange(21), np.arange(21)] = 1
    np.testing.assert_allclose(describe(ids)[CORRELATIONS, 10, 10, 4], [1, 0.5, 0.5], atol=STEP)
    np.testing.assert_allclose(describe(np.ones((31,) * 3))[SIZE, 15, 15, 15], 1, atol=STEP)


@given(st.integers(0, 5), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
@settings(max_examples=20, deadline=None)
def test_descriptors_turn_with_the_objects(seed, order, flips):
    """They are a vector, a symmetric tensor and a scalar."""
    ids = blocks(seed, (8, 8, 8), 3, 4)
    flipped = tuple(axis for axis in range(3) if flips[axis])
    values = describe(ids)
    turned = describe(np.flip(ids.transpose(order), flipped))
    back = np.flip(turned, [axis + 1 for axis in flipped])
    back = back.transpose(0, *(1 + np.argsort(order)))
    signs = [-1 if flip else 1 for flip in flips]
    for axis in range(3):
        centered = values[order[axis]] - 0.5
        np.testing.assert_allclose(back[axis] - 0.5, signs[axis] * centered, atol=1.01 * STEP)
        variance = values[VARIANCES][order[axis]]
        np.testing.assert_allclose(back[3 + axis], variance, atol=1.01 * STEP)
    for i, (a, b) in enumerate(PAIRS):
        j = PAIRS.index(tuple(sorted((order[a], order[b]))))
        centered = signs[a] * signs[b] * (values[6 + j] - 0.5)
        np.testing.assert_allclose(back[6 + i] - 0.5, centered, atol=1.01 * STEP)
    np.testing.assert_allclose(back[SIZE], values[SIZE], atol=1.01 * STEP)


def test_an_object_that_touches_unknown_voxels_is_unknown_near_them():
    ids = np.zeros((5, 5, 60), int)
    ids[..., :12] = 1
    ids[..., 14:36] = 2
    ids[..., 36:] = -1
    known = ~np.isnan(describe(ids)).any(0)[2, 2]
    # 3 voxels of sigma: a tenth of the Gaussian lies beyond 1.28 sigma.
    share_beyond = 1.28 * 3
    assert known[:12].all() and not known[12:14].any() and not known[36:].any()
    assert not known[36 - int(share_beyond) : 36].any()
    assert known[14 : 36 - int(share_beyond) - 1].all()
    # An object that ends before them is all there.
    ids[..., 35] = 0
    assert not np.isnan(describe(ids)[..., 14:35]).any()


def test_a_patch_without_objects():
    assert np.isnan(describe(np.zeros((4, 4, 4), int))).all()
    assert np.isnan(describe(np.full((4, 4, 4), -1))).all()
