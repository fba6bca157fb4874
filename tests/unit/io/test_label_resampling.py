"""Labels are resampled to larger voxels by overlap."""

from collections import defaultdict
from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io import label_resampling
from cellmap_pipeline.io.label_resampling import is_too_thin, resample_labels

SOURCE = Grid((1, 1, 1), (0, 0, 0), (4, 5, 6))


def overlaps(low, high, n):
    """Yield the voxels that an interval overlaps, and the length of each overlap."""
    for i in range(n):
        length = min(high, i + 0.5) - max(low, i - 0.5)
        if length > 1e-9:
            yield i, length


def count(ids, known, target):
    """Resample as the docstring of `resample_labels` says, voxel by voxel."""
    result, result_known = np.zeros(target.shape, ids.dtype), np.zeros(target.shape, bool)
    for index in np.ndindex(target.shape):
        center = [
            t + i * v for t, i, v in zip(target.translation, index, target.voxel_size, strict=True)
        ]
        intervals = [
            list(overlaps(c - v / 2, c + v / 2, n))
            for c, v, n in zip(center, target.voxel_size, ids.shape, strict=True)
        ]
        sums = defaultdict(float)
        for voxels in product(*intervals):
            at = tuple(i for i, _ in voxels)
            if known[at]:
                sums[int(ids[at])] += np.prod([length for _, length in voxels])
        total = sum(sums.values())
        background = sums.pop(0, 0.0)
        result_known[index] = total >= 0.5 * np.prod(target.voxel_size) - 1e-6
        if result_known[index] and total - background >= total / 2 - 1e-6 and sums:
            most = max(sums.values())
            result[index] = min(i for i, s in sums.items() if s > most - 1e-6)
    return result, result_known


@settings(max_examples=60, deadline=None)
@given(
    ids=arrays(np.uint8, SOURCE.shape, elements=st.integers(0, 3)),
    unknown=arrays(bool, SOURCE.shape),
    has_unknown=st.booleans(),
    size=st.tuples(*[st.sampled_from([1.5, 2.0, 2.5, 3.0])] * 3),
    start=st.tuples(*[st.sampled_from([-2.25, -0.5, 0.0, 0.5, 0.75, 1.25])] * 3),
)
def test_resampled_labels_equal_a_count_voxel_by_voxel(ids, unknown, has_unknown, size, start):
    known = ~unknown if has_unknown else np.ones(SOURCE.shape, bool)
    ids = ids * known
    target = Grid(size, start, (3, 3, 3))
    expected, expected_known = count(ids, known, target)
    result, result_known = resample_labels(ids, known, SOURCE, target)
    np.testing.assert_array_equal(result_known, expected_known)
    np.testing.assert_array_equal(result, expected)


def test_membrane_of_half_a_voxel_remains_closed():
    """A membrane of 2 voxels of 2.28 nm is read at 4 nm, at ten offsets."""
    source = Grid((2.28, 2, 2), (0, 0, 0), (40, 4, 4))
    for first in range(10, 20):
        ids = np.zeros(source.shape, np.uint8)
        ids[first : first + 2] = 1
        target = source.at((4, 4, 4))
        read, _ = resample_labels(ids, np.ones(source.shape, bool), source, target)
        assert read.any(axis=0).all()


def test_resampled_labels_do_not_depend_on_batches(monkeypatch):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**40, SOURCE.shape).astype(np.uint64)
    known = rng.random(SOURCE.shape) < 0.9
    target = SOURCE.at((2, 2, 2))
    whole = resample_labels(ids * known, known, SOURCE, target)
    monkeypatch.setattr(label_resampling, "MAX_COMPARED_VOXELS", 8)
    for part, all_at_once in zip(
        resample_labels(ids * known, known, SOURCE, target), whole, strict=True
    ):
        np.testing.assert_array_equal(part, all_at_once)


def test_nearest_voxel_is_taken_along_axes_that_become_finer():
    ids = np.zeros((2, 4, 4), np.uint8)
    ids[1, :2, :2] = 3
    source = Grid((8, 2, 2), (0, 0, 0), ids.shape)
    target = Grid((4, 4, 4), (-2, 1, 1), (4, 2, 2))
    read, known = resample_labels(ids, np.ones(ids.shape, bool), source, target)
    assert known.all()
    assert read[:, 0, 0].tolist() == [0, 0, 3, 3] and not read[:, 1:].any()


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 3),
    size=st.tuples(*[st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0])] * 3),
)
def test_labels_are_too_thin_where_no_larger_voxel_can_be_known(shape, size):
    source = Grid((1, 1, 1), (0, 0, 0), shape)
    ids, known = np.ones(shape, np.uint8), np.ones(shape, bool)
    best = False
    for start in product(*([0.0, -0.5, 0.5][: 1 if v == 1 else 3] for v in size)):
        # The lower corner of the target lies at, before or behind that of the source.
        center = [v / 2 - 0.5 + s for v, s in zip(size, start, strict=True)]
        best |= bool(resample_labels(ids, known, source, Grid(size, center, (1, 1, 1)))[1].any())
    assert is_too_thin(source, size) == (not best)
