import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellmap_pipeline.classes import output_channels
from cellmap_pipeline.targets import UNKNOWN, make_targets

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)


def boundary_by_hand(ids, known):
    """The definition, voxel by voxel."""
    target = np.zeros(ids.shape, np.uint8)
    for place in np.ndindex(*ids.shape):
        if not known[place]:
            target[place] = UNKNOWN
        elif ids[place] > 0:
            neighbours = [
                tuple(p)
                for p in np.array(place)
                + np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
                if all(0 <= i < n for i, n in zip(p, ids.shape, strict=True))
            ]
            if any(known[n] and ids[n] != ids[place] for n in neighbours):
                target[place] = 1
            elif any(not known[n] for n in neighbours):
                target[place] = UNKNOWN
    return target


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_targets_are_their_definition(data):
    shape = data.draw(SHAPES)
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.uint64, np.int64]))
    ids = data.draw(hnp.arrays(dtype, shape, elements=st.integers(0, 3)))
    known = data.draw(st.none() | hnp.arrays(bool, shape))
    targets = make_targets({"mito": ids}, {"mito": known}, ["mito", "mito_boundary"])
    everywhere = np.ones(shape, bool) if known is None else known
    assert targets.dtype == np.uint8
    assert np.array_equal(targets[0], np.where(everywhere, ids > 0, UNKNOWN))
    assert np.array_equal(targets[1], boundary_by_hand(ids, everywhere))


def test_touching_objects_are_parted_on_both_sides():
    ids = np.zeros((1, 1, 8), np.uint16)
    ids[0, 0, 1:7] = [300, 300, 300, 7, 7, 7]
    (boundary,) = make_targets({"mito": ids}, {}, ["mito_boundary"])
    assert boundary[0, 0].tolist() == [0, 1, 0, 1, 1, 0, 1, 0]


def test_the_faces_of_the_patch_are_no_boundary():
    ids = np.ones((3, 4, 5), np.uint8)
    assert not make_targets({"cell": ids}, {}, ["cell_boundary"]).any()


def test_what_hangs_on_the_unknown_is_unknown():
    ids = np.array([[[0, 5, 5, 5, 5, 0]]], np.uint8)
    known = np.array([[[False, True, True, True, False, True]]])
    targets = make_targets({"mito": ids}, {"mito": known}, ["mito", "mito_boundary"])
    assert targets[0, 0, 0].tolist() == [255, 1, 1, 1, 255, 0]
    # No object reaches the last voxel, whatever its neighbour is.
    assert targets[1, 0, 0].tolist() == [255, 255, 0, 255, 255, 0]


def test_classes_that_a_crop_does_not_annotate_are_unknown():
    ids = np.array([[[0, 2, 2]]], np.uint8)
    channels = output_channels(["er", "mito", "nuc"])
    assert channels == ["er", "mito", "mito_boundary", "nuc", "nuc_boundary"]
    targets = make_targets({"mito": ids}, {"mito": None}, channels)
    assert targets[:, 0, 0].tolist() == [
        [255, 255, 255],
        [0, 1, 1],
        [0, 1, 0],
        [255, 255, 255],
        [255, 255, 255],
    ]


@pytest.mark.parametrize("masked", [False, True])
def test_a_large_patch_is_quick(masked):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4, (16, 16, 16)).astype(np.uint32)
    ids = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    classes = ["nuc", "mito", "er", "golgi", "ves"]
    known = {label: rng.random(ids.shape) < 0.9 if masked else None for label in classes}
    times = []
    for _ in range(3):
        start = time.process_time()
        make_targets(dict.fromkeys(classes, ids), known, output_channels(classes))
        times.append(time.process_time() - start)
    # 15 to 30 ms on one core; the room is for a busy machine.
    assert min(times) < 0.3
