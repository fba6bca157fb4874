import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.geometry import Grid, union

sizes = st.sampled_from([1.74, 2.0, 3.48, 4.0, 6.96, 8.0, 10.0, 16.0])
places = st.integers(-4000, 4000).map(lambda v: v / 4)
counts = st.integers(1, 300)
grids = st.builds(
    Grid, st.tuples(sizes, sizes, sizes), st.tuples(places, places, places),
    st.tuples(counts, counts, counts),
)  # fmt: skip
starts = st.tuples(*[st.integers(-50, 50)] * 3)


def test_edges_are_half_a_voxel_beyond_the_centres():
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
)
def test_impossible_grids_are_refused(arguments):
    with pytest.raises(ValueError):
        Grid(*arguments)


@given(grids, starts)
def test_a_box_lies_where_it_was_cut(grid, start):
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
    # published translations are rounded to 0.01 nm
    assert Grid((1.74, 2, 2), (0, 0, 0), (9, 9, 9)).offset(
        Grid((1.74, 2, 2), (3.47, 0, 0), (9, 9, 9))
    ) == (2, 0, 0)


def test_overlap_needs_shared_volume():
    a = Grid((1, 1, 1), (0, 0, 0), (4, 4, 4))
    assert a.overlaps(a.box((3, 3, 3), (4, 4, 4)))
    assert not a.overlaps(a.box((4, 0, 0), (4, 4, 4)))
