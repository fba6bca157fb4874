"""Resampling of intensities to other grids, and nearest voxels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.resampling import nearest_indices, resample

rng = np.random.default_rng(0)


def ramp(grid):
    """Return the world position along x at each voxel's center."""
    x = grid.translation[2] + grid.voxel_size[2] * np.arange(grid.shape[2])
    return np.broadcast_to(x, grid.shape).astype(np.float32)


def test_the_same_grid_changes_nothing():
    grid = Grid((2, 3, 4), (5, 6, 7), (4, 5, 6))
    values = rng.random(grid.shape, np.float32)
    assert np.array_equal(resample(values, grid, grid), values)


def test_halved_resolution_is_the_mean_of_eight_voxels():
    grid = Grid((1, 1, 1), (0, 0, 0), (8, 6, 4))
    values = rng.random(grid.shape, np.float32)
    mean = values.reshape(4, 2, 3, 2, 2, 2).mean(axis=(1, 3, 5))
    assert np.allclose(resample(values, grid, grid.at((2, 2, 2))), mean)


def test_a_shift_of_whole_voxels_is_a_slice():
    grid = Grid((4, 4, 4), (0, 0, 0), (8, 8, 8))
    values = rng.integers(0, 255, grid.shape).astype(np.uint8)
    box = grid.box((1, 2, 3), (4, 4, 4))
    assert np.array_equal(resample(values, grid, box), values[1:5, 2:6, 3:7])


@settings(deadline=None)
@given(
    st.tuples(*[st.sampled_from([1.74, 3.48, 4.0, 6.96, 8.0, 16.0])] * 3),
    st.tuples(*[st.integers(-8, 8)] * 3),
)
def test_ramp_is_preserved_inside_the_volume(voxel_size, shift):
    source = Grid((4, 4, 4), (100, 100, 100), (40, 40, 40))
    target = Grid(voxel_size, tuple(160 + s / 2 for s in shift), (4, 4, 4))
    # Means weighted by overlap deviate from the ramp by less than a tenth of a source voxel.
    assert np.allclose(resample(ramp(source), source, target), ramp(target), atol=0.4)


@settings(deadline=None)
@given(st.tuples(*[st.floats(0.3, 4)] * 3), st.tuples(*[st.floats(-9, 9)] * 3))
def test_values_stay_within_their_range(voxel_size, translation):
    source = Grid((1, 1, 1), (0, 0, 0), (5, 6, 7))
    values = rng.random(source.shape, np.float32)
    target = Grid(voxel_size, translation, (4, 5, 6))
    result = resample(values, source, target)
    assert result.min() >= values.min() - 1e-6
    assert result.max() <= values.max() + 1e-6


def test_nearest_of_two_equally_near_voxels_is_the_lower_one():
    assert nearest_indices(0, 1, 4).tolist() == [0, 1, 2, 3]
    assert nearest_indices(0.5, 2, 3).tolist() == [0, 2, 4]  # voxels twice as large
    assert nearest_indices(-0.25, 0.5, 4).tolist() == [0, 0, 1, 1]  # half as large
    assert nearest_indices(-2, 1, 3).tolist() == [-2, -1, 0]


def test_grid_of_another_shape_is_refused():
    with pytest.raises(ValueError):
        resample(np.zeros((2, 2, 2)), Grid((1, 1, 1), (0, 0, 0), (2, 2, 3)), None)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2), st.integers(-12, 12), st.sampled_from([0.0, 0.5]))
def test_shifts_by_whole_voxels_are_slices_and_by_half_a_voxel_means(axis, whole, half):
    """Beyond the border, its values are repeated."""
    source = Grid((4, 4, 4), (0, 0, 0), (8, 9, 10))
    values = rng.random(source.shape, np.float32)
    place = [0.0, 0.0, 0.0]
    place[axis] = (whole + half) * 4
    index = np.arange(source.shape[axis]) + whole
    lower, upper = (
        values.take(i.clip(0, source.shape[axis] - 1), axis) for i in (index, index + 1)
    )
    expected = (lower + upper) / 2 if half else lower
    moved = Grid(source.voxel_size, tuple(place), source.shape)
    assert np.allclose(resample(values, source, moved), expected, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.sampled_from([1, 2, 3])] * 3))
def test_upsampling_then_downsampling_keeps_smooth_values(factor):
    source = Grid((6, 6, 6), (30, 30, 30), (10, 10, 10))
    z, y, x = np.indices(source.shape)
    values = (3 * z - 2 * y + x).astype(np.float32)
    fine = source.at([v / f for v, f in zip(source.voxel_size, factor, strict=True)])
    again = resample(resample(values, source, fine), fine, source)
    inner = (slice(1, -1),) * 3  # Interpolation needs neighbors on both sides.
    assert np.allclose(again[inner], values[inner], atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(st.integers(-20, 20), st.sampled_from([1, 2, 4, 8]), st.integers(1, 12))
def test_nearest_is_the_voxel_that_contains_the_center(start, factor, n):
    """Edges of voxels that are larger by a whole factor lie on edges of the source's voxels."""
    first = start + (factor - 1) / 2
    index = nearest_indices(first, factor, n)
    low = start + factor * np.arange(n)
    # The center of an even number of voxels lies on a border, of which the lower voxel is taken.
    assert np.array_equal(index, low + (factor - 1) // 2)
    # Voxels that are smaller by that factor lie within one each.
    fine = nearest_indices(start - 0.5 + 0.5 / factor, 1 / factor, n * factor)
    assert np.array_equal(fine, start + np.arange(n * factor) // factor)
