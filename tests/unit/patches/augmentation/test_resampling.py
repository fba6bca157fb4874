import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cellmap_pipeline.patches.augmentation.resampling import orient, resample
from cellmap_pipeline.patches.augmentation.transform import (
    PatchTransform,
    random_rotation,
    shape_to_read,
)
from tests.support.transforms import CUBE, blobs, numbered

QUIET = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(*[st.sampled_from([3, 4, 6])] * 3)
voxel_sizes = st.sampled_from([CUBE, (6.0, 8.0, 8.0), (40.0, 4.0, 4.0)])
patches = st.tuples(*[st.integers(1, 9)] * 3)
scales = st.floats(0.25, 4)


@given(shapes, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
@QUIET
def test_an_orientation_can_be_undone(shape, axes, flips):
    _, codes = numbered(shape)
    back = np.argsort(axes).tolist()
    moved = orient(codes, axes, flips)
    assert torch.equal(orient(moved, back, [flips[a] for a in back]), codes)


def test_identity_rotation_keeps_the_center():
    raw, codes = numbered((7, 9, 8))
    rotated, rotated_codes = resample(raw, codes, np.eye(3), (3, 5, 4), CUBE)
    np.testing.assert_allclose(rotated, raw[2:5, 2:7, 2:6], atol=1e-6)
    assert torch.equal(rotated_codes, codes[2:5, 2:7, 2:6])


@pytest.mark.parametrize("voxel", [CUBE, (8.0, 4.0, 4.0)], ids=str)
def test_rotations_by_90_degrees_permute_axes(voxel):
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    raw, codes = numbered((5, 6, 6))
    rotated, rotated_codes = resample(raw, codes, quarter, (5, 6, 6), voxel)
    np.testing.assert_allclose(rotated, np.rot90(raw, -1, (1, 2)), atol=1e-5)
    assert np.array_equal(rotated_codes, np.rot90(codes, -1, (1, 2)))


@given(seeds, scales, st.sampled_from([CUBE, (6.0, 8.0, 8.0)]))
@settings(max_examples=15, deadline=None)
def test_resampling_agrees_with_scipy(seed, scale, voxel):
    rotation = random_rotation(100, np.random.default_rng(seed))
    transform = PatchTransform(rotation, min(scale, 2))
    raw, codes = blobs(shape_to_read(transform, (20, 20, 20), voxel), seed)
    rotated, rotated_codes = resample(raw, codes, transform.linear, (20, 20, 20), voxel)
    matrix = transform.linear * voxel / np.array(voxel)[:, None]
    offset = (np.array(raw.shape) - 1) / 2 - matrix @ np.full(3, 9.5)
    expected = ndimage.affine_transform(raw, matrix, offset, (20, 20, 20), order=1, mode="nearest")
    np.testing.assert_allclose(rotated, expected, atol=1e-4)
    nearest = ndimage.affine_transform(codes, matrix, offset, (20, 20, 20), order=0)
    # A position halfway between two voxels may get the value of either.
    assert (rotated_codes.numpy() == nearest).mean() > 0.999


@given(seeds, scales, st.booleans(), voxel_sizes, patches)
@QUIET
def test_a_ramp_in_nm_is_the_ramp_of_the_transformed_positions(seed, scale, rotates, voxel, patch):
    """Linear interpolation is exact, so the box that is read holds all that is interpolated."""
    rng = np.random.default_rng(seed)
    transform = PatchTransform(random_rotation(100, rng) if rotates else None, scale)
    shape = shape_to_read(transform, patch, voxel)
    linear = np.eye(3) if transform.linear is None else transform.linear
    direction = rng.standard_normal(3)
    codes = torch.ones(shape, dtype=torch.int32)
    raw = torch.from_numpy((world(shape, voxel) @ direction).astype(np.float32))
    resampled, known = resample(raw, codes, linear, patch, voxel)
    expected = world(patch, voxel) @ linear.T
    reach = np.abs(world(shape, voxel)).max() + 1
    np.testing.assert_allclose(resampled, expected @ direction, atol=1e-5 * reach)
    assert (known == 1).all()


def world(shape, voxel):
    """Positions (z, y, x, 3) of voxels in nm from the center."""
    axes = [(np.arange(n) - (n - 1) / 2) * v for n, v in zip(shape, voxel, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


@pytest.mark.parametrize(("scale", "length"), [(0.5, 24), (1, 12), (1.5, 8), (2, 6)])
def test_scaled_objects_have_the_scaled_size(scale, length):
    transform = PatchTransform(scale=scale)
    shape = shape_to_read(transform, (28, 28, 28), CUBE)
    codes = torch.zeros(shape, dtype=torch.int32)
    middle = shape[2] // 2
    codes[..., middle - 6 : middle + 6] = 1
    raw, scaled = resample(codes.float(), codes, scale * np.eye(3), (28, 28, 28), CUBE)
    assert (scaled.sum(2) == length).all()
    assert (raw > 0.5).sum(2).unique().tolist() == [length]


def test_a_world_rotation_keeps_lengths_where_voxels_are_not_cubes():
    # A rod of 84 nm along x, 8 nm thick along z, rotated to z: 10.5 voxels along z, 2 along x.
    codes = torch.zeros((21, 41, 41), dtype=torch.int32)
    codes[10, 20, 10:31] = 1
    up = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    _, rotated = resample(codes.float(), codes, up, (21, 41, 41), (8.0, 4.0, 4.0))
    assert [len(set(axis)) for axis in np.nonzero(rotated.numpy())] == [11, 1, 2]


def test_voxels_from_outside_are_unknown():
    raw, codes = torch.full((4, 4, 16), 0.7), torch.ones((4, 4, 16), dtype=torch.int32)
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    rotated, rotated_codes = resample(raw, codes, quarter, (4, 4, 16), CUBE)
    np.testing.assert_allclose(rotated, 0.7, rtol=1e-6)
    assert (rotated_codes[..., 6:10] == 1).all()
    assert (rotated_codes[..., :6] == 0).all() and (rotated_codes[..., 10:] == 0).all()


@given(seeds, scales, voxel_sizes, patches, shapes)
@QUIET
def test_scaling_alone_agrees_with_the_general_interpolation(seed, scale, voxel, patch, shape):
    """The input may be smaller or larger than what is interpolated."""
    raw, codes = numbered(shape)
    linear = scale * np.eye(3)
    tilted = linear.copy()
    tilted[0, 1] = 1e-9
    alone, alone_codes = resample(raw, codes, linear, patch, voxel)
    general, general_codes = resample(raw, codes, tilted, patch, voxel)
    torch.testing.assert_close(alone, general, atol=1e-4, rtol=0)
    # A position halfway between two voxels may get the code of either.
    positions = [
        (np.arange(n) - (n - 1) / 2) * scale + (m - 1) / 2
        for n, m in zip(patch, shape, strict=True)
    ]
    halfway = [abs((p + 0.5) - np.round(p + 0.5)) < 1e-4 for p in positions]
    clear = ~np.logical_or.reduce(np.meshgrid(*halfway, indexing="ij"))
    assert torch.equal(alone_codes[clear], general_codes[clear])
