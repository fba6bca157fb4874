import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import DisjointSet

from cellmap_pipeline.segmentation.agglomeration import (
    contacts,
    groups,
    merge_by_mean,
    merge_small,
    merge_wide_necks,
    merges_by_mean,
    pooled,
)
from cellmap_pipeline.segmentation.fragments import between


def row(*ids):
    return np.array(ids, np.int32).reshape(1, 1, -1)


def values(*numbers):
    return np.array(numbers, np.float32).reshape(1, 1, -1)


def test_contacts_of_a_row():
    links = contacts(row(1, 1, 2, 0, 3, 2), between(values(0, 0.2, 0.4, 1, 0.6, 0.8)))
    assert links.first.tolist() == [1, 2] and links.second.tolist() == [2, 3]
    assert links.area.tolist() == [1, 1]
    assert links.mean == pytest.approx([0.3, 0.7])
    links = contacts(row(1, 1, 2, 0, 3, 2), between(values(0, 0.2, 0.4, 1, 0.6, 0.8), lowest=True))
    assert links.highest == pytest.approx([0.2, 0.6])


def test_contacts_pool_faces_over_all_axes():
    labels = np.ones((2, 2, 2), np.int32)
    labels[1, 1, 1] = 2
    heights = np.zeros((2, 2, 2), np.float32)
    heights[0, 1, 1], heights[1, 0, 1] = 0.6, 0.3
    links = contacts(labels, between(heights))
    assert links.area.tolist() == [3]
    assert links.mean == pytest.approx([0.15]) and links.highest == pytest.approx([0.3])


def test_no_contacts():
    links = contacts(row(1, 0, 2), between(values(0, 0, 0)))
    assert links.first.size == 0
    assert merge_by_mean(links, 3, 0.5).tolist() == [0, 1, 2]
    assert merge_small(links, np.array([1, 1, 1]), 10).tolist() == [0, 1, 2]


def test_pooling_weights_by_area():
    # Piece 1 has three faces to 2 and 3, which become one.
    labels = np.array([[[1, 1, 1], [2, 2, 3]]], np.int32)
    heights = np.array([[[0, 0, 0], [0.2, 0.4, 1.2]]], np.float32)
    links = pooled(contacts(labels, between(heights)), np.array([0, 1, 2, 2]))
    assert links.area.tolist() == [3] and links.mean == pytest.approx([0.3])
    assert links.highest == pytest.approx([0.6])


def test_means_are_pooled_before_the_next_merge():
    # 1 and 2 merge. Their mean to 3 is then 0.5, though that of 2 alone is 0.3.
    labels = np.array([[[1, 2, 2], [3, 3, 0]]], np.int32)
    heights = np.array([[[0.1, 0.1, 0.1], [1.3, 0.5, 0]]], np.float32)
    # Of many faces, so that the means count.
    links = contacts(labels.repeat(500, 0), between(heights.repeat(500, 0)))
    assert merge_by_mean(links, 4, 0.05).tolist() == [0, 1, 2, 3]
    assert merge_by_mean(links, 4, 0.45).tolist() == [0, 1, 1, 3]
    assert merge_by_mean(links, 4, 0.55).tolist() == [0, 1, 1, 1]


def test_of_a_few_faces_little_is_known():
    links = contacts(row(1, 2, 3), between(values(0, 0, 1)))
    assert links.likely == pytest.approx([5 / 11, 5.5 / 11])
    many = contacts(row(1, 2, 3).repeat(1000, 0), between(values(0, 0, 1).repeat(1000, 0)))
    assert many.likely == pytest.approx([0, 0.5], abs=0.006)


def test_one_open_face_joins_no_cells():
    # Between 1 and 2 lie 100 faces of a faint boundary, 3 lies in 1 and meets 2 at an open face.
    faint = np.full((100, 1, 4), 0.35, np.float32)
    labels = row(1, 1, 2, 2).repeat(100, 0)
    labels[:50, 0, 1] = 3
    labels[1:50, 0, 2] = 0
    faint[0, 0, 1:3] = 0
    faint[:50, 0, :2] = 0.05
    links = contacts(labels, between(faint))
    assert links.mean[(links.first == 2) & (links.second == 3)] < 0.1
    assert merge_by_mean(links, 4, 0.3).tolist() == [0, 1, 2, 1]
    # So a small piece joins what it shares most faces with, too.
    sizes = np.bincount(labels.ravel(), minlength=4)
    assert merge_small(links, sizes, 51).tolist() == [0, 1, 2, 1]


def test_all_that_is_left_reaches_the_threshold():
    rng = np.random.default_rng(0)
    labels = rng.permutation(6**3).reshape(6, 6, 6).astype(np.int32) + 1
    heights = rng.random((6, 6, 6), np.float32)
    links = contacts(labels, between(heights))
    lookup = merge_by_mean(links, 217, 0.49)
    left = pooled(links, lookup)
    assert 1 < np.unique(lookup).size < 217 and left.likely.min() >= 0.49
    assert (lookup[lookup] == lookup).all()


def test_small_ones_join_behind_the_weakest_boundary():
    labels = row(1, 1, 1, 2, 3, 3, 3)
    links = contacts(labels, between(values(0, 0, 0.9, 0, 0.5, 0, 0)))
    sizes = np.bincount(labels.ravel())
    assert merge_small(links, sizes, 2).tolist() == [0, 1, 3 - 1, 2]
    assert merge_small(links, sizes, 1).tolist() == [0, 1, 2, 3]


def test_a_small_one_never_joins_two_large_ones():
    labels = row(1, 1, 1, 2, 3, 4, 4, 4)
    links = contacts(labels, between(values(0, 0, 0.1, 0, 0, 0.1, 0, 0)))
    lookup = merge_small(links, np.bincount(labels.ravel()), 3)
    assert lookup[1] != lookup[4] and np.unique(lookup[1:]).size == 2


def test_necks():
    # Radii 5, 4 and 1; a neck of 2 between the first two, of 1 to the third.
    labels = row(1, 2, 3)
    links = contacts(labels, between(values(5, 2, 1), lowest=True))
    radius = np.array([0, 5, 4, 1], np.float32)
    assert merge_wide_necks(links, radius, 0.6).tolist() == [0, 1, 2, 2]
    assert merge_wide_necks(links, radius, 0.5).tolist() == [0, 1, 1, 1]


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        )
    )
)
def test_groups_are_the_connected_components(drawn):
    n, pairs = drawn
    sets = DisjointSet(range(n))
    for one, other in pairs:
        sets.merge(one, other)
    expected = [min(sets.subset(i)) for i in range(n)]
    one, other = np.array(pairs, np.int64).reshape(-1, 2).T
    assert groups(n, one, other).tolist() == expected


def test_a_long_chain_is_one_group():
    order = np.random.default_rng(0).permutation(100_000)
    assert not groups(order.size, order[:-1], order[1:]).any()


def test_merging_on_gives_what_each_threshold_gives_alone():
    rng = np.random.default_rng(0)
    labels = np.arange(1, 1001, dtype=np.int32).reshape(10, 10, 10)
    # Few values, so that many contacts lie on a threshold.
    heights = rng.integers(0, 11, (10, 10, 10)).astype(np.float32) / 10
    links = contacts(labels, between(heights))
    thresholds = [0.0, *np.round(np.arange(0.1, 0.8, 0.05), 2), 0.8125]
    numbers = []
    for threshold, lookup in zip(thresholds, merges_by_mean(links, 1001, thresholds), strict=True):
        assert np.array_equal(lookup, merge_by_mean(links, 1001, threshold))
        numbers.append(np.unique(lookup).size)
    assert numbers[0] == 1001 and numbers == sorted(numbers, reverse=True) and numbers[-1] < 100
