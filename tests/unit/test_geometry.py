import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.geometry import Grid, common_extent, fraction_outside, union

sizes = st.sampled_from([1.74, 2.0, 3.48, 4.0, 6.96, 8.0, 10.0, 16.0])
places = st.integers(-4000, 4000).map(lambda v: v / 4)
counts = st.integers(1, 300)
grids = st.builds(
    Grid, st.tuples(sizes, sizes, sizes), st.tuples(places, places, places),
    st.tuples(counts, counts, counts),
)  # fmt: skip
starts = st.tuples(*[st.integers(-50, 50)] * 3)


def test_edges_are_half_a_voxel_outside_the_centers():
    grid = Grid((2, 4, 8), (1, 2, 4), (10, 5, 2))
    assert grid.lower == (0, 0, 0)
    assert grid.upper == (20, 20, 16)
    assert grid.size == 100


@pytest.mark.parametrize(
    "arguments",
    [
        ((0, 1, 1), (0, 0, 0), (1, 1, 1)),
        ((1, 1, float("nan")), (0, 0, 0), (1, 1, 1)),
        ((1, 1, 1), (0, float("inf"), 0), (1, 1, 1)),
        ((1, 1, 1), (0, 0, 0), (1, 0, 1)),
        ((1, 1), (0, 0), (1, 1)),
    ],
    ids=str,
)
def test_impossible_grids_are_refused(arguments):
    with pytest.raises(ValueError):
        Grid(*arguments)


@given(grids, starts)
def test_a_box_keeps_its_world_position(grid, start):
    box = grid.box(start, (3, 4, 5))
    assert grid.offset(box) == start
    stop = (start[0] + 3, start[1] + 4, start[2] + 5)
    assert grid.index_box(box) == (start, stop)


@given(grids, st.tuples(sizes, sizes, sizes))
def test_another_voxel_size_covers_the_same_extent(grid, voxel_size):
    other = grid.at(voxel_size)
    for lo, own, up, theirs, v in zip(
        other.lower, grid.lower, other.upper, grid.upper, voxel_size, strict=True
    ):
        assert lo == pytest.approx(own)
        assert theirs - 0.03 * v <= up < theirs + v


@given(grids, grids)
def test_a_union_covers_both_and_no_more(a, b):
    both = union([a, b])
    assert both.covers(a) and both.covers(b)
    for d in range(3):
        v = both.voxel_size[d]
        assert both.lower[d] > min(a.lower[d], b.lower[d]) - v
        assert both.upper[d] < max(a.upper[d], b.upper[d]) + 2 * v


def test_half_a_voxel_off_does_not_align():
    grid = Grid((4, 4, 4), (0, 0, 0), (8, 8, 8))
    assert grid.offset(Grid((4, 4, 4), (8, 4, 0), (2, 2, 2))) == (2, 1, 0)
    assert grid.offset(Grid((4, 4, 4), (2, 0, 0), (2, 2, 2))) is None
    assert grid.offset(Grid((4, 4, 4.1), (0, 0, 0), (8, 8, 8))) is None
    # Published translations are rounded to 0.01 nm.
    assert Grid((1.74, 2, 2), (0, 0, 0), (9, 9, 9)).offset(
        Grid((1.74, 2, 2), (3.47, 0, 0), (9, 9, 9))
    ) == (2, 0, 0)


def test_overlap_needs_shared_volume():
    a = Grid((1, 1, 1), (0, 0, 0), (4, 4, 4))
    assert a.overlaps(a.box((3, 3, 3), (4, 4, 4)))
    assert not a.overlaps(a.box((4, 0, 0), (4, 4, 4)))


@given(grids, starts)
def test_shifting_there_and_back_gives_the_same_grid(grid, start):
    back = [-s for s in start]
    box = grid.box(start, grid.shape).box(back, grid.shape)
    assert grid.offset(box) == (0, 0, 0)
    inner = grid.padded((2, 0, 5)).box((2, 0, 5), grid.shape)
    assert grid.offset(inner) == (0, 0, 0)


@given(grids, st.sampled_from([2, 3, 4]))
def test_coarser_and_finer_again_keeps_the_edges(grid, factor):
    whole = grid.box((0, 0, 0), [n * factor for n in grid.shape])
    coarse = whole.at([v * factor for v in grid.voxel_size])
    assert coarse.shape == grid.shape
    # The center of a coarse voxel lies (factor - 1) / 2 fine voxels from that of its first one.
    assert grid.position(coarse) == pytest.approx(((factor - 1) / 2,) * 3, abs=1e-6)
    assert whole.offset(coarse.at(grid.voxel_size)) == (0, 0, 0)
    assert whole.index_box(coarse) == ((0, 0, 0), whole.shape)


@given(grids, starts, st.floats(-0.4, 0.4), st.integers(0, 2))
def test_a_box_off_by_part_of_a_voxel_needs_one_voxel_more(grid, start, part, axis):
    box = grid.box(start, (3, 4, 5))
    moved = list(box.translation)
    moved[axis] += part * grid.voxel_size[axis]
    low, high = grid.index_box(Grid(grid.voxel_size, tuple(moved), box.shape))
    off = abs(part) > 0.03
    if off or abs(part) < 0.01:
        assert low[axis] == start[axis] - (part < 0 and off)
        assert high[axis] == start[axis] + box.shape[axis] + (part > 0 and off)


@given(grids, starts)
def test_a_box_is_covered_until_it_crosses_the_border(grid, start):
    box = grid.box(start, (3, 4, 5))
    inside = all(
        s >= 0 and s + n <= whole
        for s, n, whole in zip(start, box.shape, grid.shape, strict=True)
    )  # fmt: skip
    assert grid.covers(box) == inside
    touching = all(
        s < whole and s + n > 0 for s, n, whole in zip(start, box.shape, grid.shape, strict=True)
    )
    assert grid.overlaps(box) == box.overlaps(grid) == touching


@pytest.mark.parametrize(
    ("start", "shape", "share"),
    [
        ((0, 0, 0), (10, 10, 10), 0),
        ((2, 2, 2), (3, 3, 3), 0),
        ((-5, 0, 0), (10, 10, 10), 0.5),
        ((-5, 0, 0), (20, 10, 10), 0.5),
        ((-1, 0, 8), (10, 10, 4), 1 - 0.9 * 0.5),
        ((0, 10, 0), (10, 10, 10), 1),
        ((0, -30, 0), (10, 10, 10), 1),
    ],
    ids=str,
)
def test_fraction_outside(start, shape, share):
    grid = Grid((2, 4, 8), (1, 2, 3), (10, 10, 10))
    assert fraction_outside(grid, grid.box(start, shape)) == pytest.approx(share)


def test_overhang_below_the_tolerance_does_not_count():
    grid = Grid((8, 8, 8), (0, 0, 0), (10, 10, 10))
    moved = Grid((8, 8, 8), (-7, 0, 7), (10, 10, 10))
    assert fraction_outside(grid, moved) == pytest.approx(1 - (1 - 7 / 80) ** 2)
    assert fraction_outside(grid, moved, (8, 8, 8)) == 0
    # A whole voxel counts.
    assert fraction_outside(grid, grid.box((0, 0, 1), grid.shape), (8, 8, 8)) == pytest.approx(0.1)


def test_common_extent_holds_all_grids_in_any_order():
    small = Grid((8, 8, 8), (204, 4, 4), (10, 10, 10))
    large = Grid((4, 4, 4), (102, 2, 2), (60, 40, 10))
    misplaced = Grid((2, 2, 2), (9001, 1, 1), (10, 10, 10))
    around = Grid((4, 4, 4), (102, 2, 2), (60, 40, 20))
    for grids in ([small, large, misplaced], [misplaced, large, small]):
        assert common_extent(grids) == around
    assert common_extent([small]) == common_extent([small, small]) == small
    assert common_extent([small, misplaced]) == common_extent([misplaced, small]) == misplaced
