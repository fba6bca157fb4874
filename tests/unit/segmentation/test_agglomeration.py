"""Contacts of fragments, and their merging."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import DisjointSet

from cellmap_pipeline.segmentation.agglomeration import (
    Contacts,
    find_contacts,
    group_ids,
    mean_dendrogram,
    merge_wide_necks,
    relabel_contacts,
    size_dendrogram,
)
from cellmap_pipeline.segmentation.landscapes import values_on_faces


def row(*ids):
    return np.array(ids, np.int32).reshape(1, 1, -1)


def values(*numbers):
    return np.array(numbers, np.float32).reshape(1, 1, -1)


def test_fragments_along_a_row_have_contacts_with_their_neighbors():
    contacts = find_contacts(
        row(1, 1, 2, 0, 3, 2), values_on_faces(values(0, 0.2, 0.4, 1, 0.6, 0.8))
    )
    assert contacts.first.tolist() == [1, 2] and contacts.second.tolist() == [2, 3]
    assert contacts.area.tolist() == [1, 1]
    assert contacts.mean == pytest.approx([0.3, 0.7])
    contacts = find_contacts(
        row(1, 1, 2, 0, 3, 2), values_on_faces(values(0, 0.2, 0.4, 1, 0.6, 0.8), lowest=True)
    )
    assert contacts.highest == pytest.approx([0.2, 0.6])


def test_contacts_combine_faces_along_all_axes():
    labels = np.ones((2, 2, 2), np.int32)
    labels[1, 1, 1] = 2
    heights = np.zeros((2, 2, 2), np.float32)
    heights[0, 1, 1], heights[1, 0, 1] = 0.6, 0.3
    contacts = find_contacts(labels, values_on_faces(heights))
    assert contacts.area.tolist() == [3]
    assert contacts.mean == pytest.approx([0.15]) and contacts.highest == pytest.approx([0.3])


def test_fragments_without_contacts_stay_apart():
    contacts = find_contacts(row(1, 0, 2), values_on_faces(values(0, 0, 0)))
    assert contacts.first.size == 0
    assert mean_dendrogram(contacts, 3).cut(0.5).tolist() == [0, 1, 2]
    assert size_dendrogram(contacts, np.array([1, 1, 1])).cut(10).tolist() == [0, 1, 2]


def test_relabeled_contacts_are_weighted_by_area():
    # Fragment 1 has three faces to 2 and 3, which become one fragment.
    labels = np.array([[[1, 1, 1], [2, 2, 3]]], np.int32)
    heights = np.array([[[0, 0, 0], [0.2, 0.4, 1.2]]], np.float32)
    contacts = relabel_contacts(
        find_contacts(labels, values_on_faces(heights)), np.array([0, 1, 2, 2])
    )
    assert contacts.area.tolist() == [3] and contacts.mean == pytest.approx([0.3])
    assert contacts.highest == pytest.approx([0.6])


def test_means_are_pooled_before_the_next_merge():
    # After 1 and 2 have merged, their mean boundary to 3 is 0.5, although that of 2 alone is 0.3.
    labels = np.array([[[1, 2, 2], [3, 3, 0]]], np.int32)
    heights = np.array([[[0.1, 0.1, 0.1], [1.3, 0.5, 0]]], np.float32)
    # Many faces, so that the prior hardly matters.
    contacts = find_contacts(labels.repeat(500, 0), values_on_faces(heights.repeat(500, 0)))
    assert mean_dendrogram(contacts, 4).cut(0.05).tolist() == [0, 1, 2, 3]
    assert mean_dendrogram(contacts, 4).cut(0.45).tolist() == [0, 1, 1, 3]
    assert mean_dendrogram(contacts, 4).cut(0.55).tolist() == [0, 1, 1, 1]


def test_boundary_probability_of_few_faces_is_close_to_one_half():
    contacts = find_contacts(row(1, 2, 3), values_on_faces(values(0, 0, 1)))
    assert contacts.boundary_probability == pytest.approx([5 / 11, 5.5 / 11])
    many = find_contacts(
        row(1, 2, 3).repeat(1000, 0), values_on_faces(values(0, 0, 1).repeat(1000, 0))
    )
    assert many.boundary_probability == pytest.approx([0, 0.5], abs=0.006)


def test_one_open_face_does_not_merge_cells():
    # A faint boundary of 100 faces separates 1 and 2. Fragment 3 lies in 1 and shares one face
    # without a boundary with 2.
    faint = np.full((100, 1, 4), 0.35, np.float32)
    labels = row(1, 1, 2, 2).repeat(100, 0)
    labels[:50, 0, 1] = 3
    labels[1:50, 0, 2] = 0
    faint[0, 0, 1:3] = 0
    faint[:50, 0, :2] = 0.05
    contacts = find_contacts(labels, values_on_faces(faint))
    assert contacts.mean[(contacts.first == 2) & (contacts.second == 3)] < 0.1
    assert mean_dendrogram(contacts, 4).cut(0.3).tolist() == [0, 1, 2, 1]
    # A small fragment also merges with the one with which it shares the most faces.
    sizes = np.bincount(labels.ravel(), minlength=4)
    assert size_dendrogram(contacts, sizes).cut(51).tolist() == [0, 1, 2, 1]


def test_contacts_that_remain_after_merging_reach_the_threshold():
    rng = np.random.default_rng(0)
    labels = rng.permutation(6**3).reshape(6, 6, 6).astype(np.int32) + 1
    heights = rng.random((6, 6, 6), np.float32)
    contacts = find_contacts(labels, values_on_faces(heights))
    lookup = mean_dendrogram(contacts, 217).cut(0.49)
    left = relabel_contacts(contacts, lookup)
    assert 1 < np.unique(lookup).size < 217 and left.boundary_probability.min() >= 0.49
    assert (lookup[lookup] == lookup).all()


def test_small_fragments_merge_across_the_weakest_boundary():
    labels = row(1, 1, 1, 2, 3, 3, 3)
    contacts = find_contacts(labels, values_on_faces(values(0, 0, 0.9, 0, 0.5, 0, 0)))
    sizes = np.bincount(labels.ravel())
    assert size_dendrogram(contacts, sizes).cut(2).tolist() == [0, 1, 3 - 1, 2]
    assert size_dendrogram(contacts, sizes).cut(1).tolist() == [0, 1, 2, 3]


def test_small_fragment_between_two_large_ones_merges_with_one():
    labels = row(1, 1, 1, 2, 3, 4, 4, 4)
    contacts = find_contacts(labels, values_on_faces(values(0, 0, 0.1, 0, 0, 0.1, 0, 0)))
    lookup = size_dendrogram(contacts, np.bincount(labels.ravel())).cut(3)
    assert lookup[1] != lookup[4] and np.unique(lookup[1:]).size == 2


def test_fragments_merge_across_necks_wider_than_the_threshold():
    # Radii of 5, 4 and 1 voxels; necks of 2 voxels between 1 and 2, and of 1 between 2 and 3.
    labels = row(1, 2, 3)
    contacts = find_contacts(labels, values_on_faces(values(5, 2, 1), lowest=True))
    radius = np.array([0, 5, 4, 1], np.float32)
    assert merge_wide_necks(contacts, radius, 0.6).tolist() == [0, 1, 2, 2]
    assert merge_wide_necks(contacts, radius, 0.5).tolist() == [0, 1, 1, 1]


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
    assert group_ids(n, one, other).tolist() == expected


def test_long_chain_is_one_group():
    order = np.random.default_rng(0).permutation(100_000)
    assert not group_ids(order.size, order[:-1], order[1:]).any()


def merge_one_by_one(contacts, sizes, threshold=0.0, min_voxels=0):
    """Merge at one contact at a time, as the dendrograms do, with all contacts pooled anew."""
    lookup, highest = np.arange(sizes.size), 0.0
    while contacts.first.size:
        probability = contacts.boundary_probability
        if threshold:
            chosen = int(np.argmin(probability))
            highest = max(highest, probability[chosen])
            if probability[chosen] >= threshold:
                break
        else:
            ends = np.stack([contacts.first, contacts.second])
            smallest = sizes[ends].min()
            if smallest >= min_voxels:
                break
            region = ends[sizes[ends] == smallest].min()
            of_region = np.flatnonzero((ends == region).any(axis=0))
            chosen = of_region[np.argmin(probability[of_region])]
        groups = group_ids(sizes.size, contacts.first[[chosen]], contacts.second[[chosen]])
        lookup, sizes = groups[lookup], np.bincount(groups, sizes, sizes.size)
        contacts = relabel_contacts(contacts, groups)
    return lookup


@st.composite
def graphs(draw):
    n = draw(st.integers(2, 12))
    pair = st.tuples(st.integers(1, n), st.integers(1, n)).filter(lambda pair: pair[0] < pair[1])
    pairs = np.array(draw(st.lists(pair, unique=True, max_size=30)), np.int64).reshape(-1, 2)
    # All values differ, so that the order does not depend on how ties are broken.
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    area = rng.integers(1, 200, len(pairs)).astype(float)
    contacts = Contacts(*pairs.T, area, rng.random(len(pairs)), np.zeros(len(pairs)))
    return contacts, np.concatenate([[0], 2 ** rng.permutation(n)])


@settings(deadline=None)  # The first call compiles.
@given(graphs(), st.floats(0.05, 0.95), st.integers(1, 5000))
def test_cuts_are_what_merging_one_by_one_gives(graph, threshold, min_voxels):
    contacts, sizes = graph
    by_mean = mean_dendrogram(contacts, sizes.size)
    assert (np.diff(by_mean.height) >= 0).all()
    expected = merge_one_by_one(contacts, sizes, threshold=threshold)
    assert by_mean.cut(threshold).tolist() == expected.tolist()
    by_size = size_dendrogram(contacts, sizes)
    assert (np.diff(by_size.height) >= 0).all()
    expected = merge_one_by_one(contacts, sizes, min_voxels=min_voxels)
    assert by_size.cut(min_voxels).tolist() == expected.tolist()


def test_merging_takes_little_more_than_linear_time():
    """A region in contact with all others, and a path; by pairs of regions it would take hours."""
    n = 200_000
    hub = np.stack([np.full(n - 1, 1), np.arange(2, n + 1)])
    path = np.stack([np.arange(2, n), np.arange(3, n + 1)])
    first, second = np.concatenate([hub, path], axis=1)
    value = np.random.default_rng(0).random(first.size)
    contacts = Contacts(first, second, np.ones(first.size), value, value)
    begin = time.process_time()
    assert not mean_dendrogram(contacts, n + 1).cut(1)[1:].max() > 1
    assert not size_dendrogram(contacts, np.ones(n + 1)).cut(n)[1:].max() > 1
    assert time.process_time() - begin < 20


def test_cuts_at_ascending_thresholds_contain_one_another():
    rng = np.random.default_rng(0)
    labels = np.arange(1, 1001, dtype=np.int32).reshape(10, 10, 10)
    # Few different values, so that many contacts lie at a threshold.
    heights = rng.integers(0, 11, (10, 10, 10)).astype(np.float32) / 10
    contacts = find_contacts(labels, values_on_faces(heights))
    dendrogram = mean_dendrogram(contacts, 1001)
    lookups = [dendrogram.cut(t) for t in [0.0, *np.round(np.arange(0.1, 0.8, 0.05), 2)]]
    for finer, coarser in pairwise(lookups):
        assert np.array_equal(coarser[finer], coarser)
    numbers = [np.unique(lookup).size for lookup in lookups]
    assert numbers[0] == 1001 and numbers == sorted(numbers, reverse=True) and numbers[-1] < 100
