import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellmap_pipeline.channels import (
    DESCRIPTOR_SUFFIXES,
    class_of,
    is_affinity,
    is_descriptor,
    long_range_offset_nm,
    long_range_suffix,
    output_channels,
)
from cellmap_pipeline.patches.targets import (
    MAX_DISTANCE_VOXELS,
    UNKNOWN,
    affinity_offset,
    forget_contradictions,
    make_targets,
    object_ids,
    scale_distances,
    stored_channels,
    target_divisors,
    write_affinity,
)

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)


def boundary_by_hand(ids, known):
    """Compute targets by their definition, voxel by voxel."""
    target = np.zeros(ids.shape, np.uint8)
    for place in np.ndindex(*ids.shape):
        if not known[place]:
            target[place] = UNKNOWN
        elif ids[place] > 0:
            neighbors = [
                tuple(p)
                for p in np.array(place)
                + np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
                if all(0 <= i < n for i, n in zip(p, ids.shape, strict=True))
            ]
            if any(known[n] and ids[n] != ids[place] for n in neighbors):
                target[place] = 1
            elif any(not known[n] for n in neighbors):
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


def distance_by_hand(ids, known, steps):
    """Compute distances by their definition, from all pairs of voxels."""
    target = np.zeros(ids.shape, np.uint8)
    places = np.argwhere(np.ones(ids.shape, bool))
    for place in map(tuple, places):
        if not known[place]:
            target[place] = UNKNOWN
        elif ids[place] > 0:
            distances = np.sqrt((((places - place) * steps) ** 2).sum(1)).reshape(ids.shape)
            others = distances[ids != ids[place]]
            value = min(MAX_DISTANCE_VOXELS, np.round(others.min(initial=MAX_DISTANCE_VOXELS)))
            unsure = np.round(distances[~known].min(initial=np.inf)) < value
            target[place] = UNKNOWN if unsure else value
    return target


@given(st.data(), st.sampled_from([(8, 8, 8), (6.96, 8, 8), (16, 8, 8)]))
@settings(max_examples=40, deadline=None)
def test_distances_are_their_definition(data, voxel_size):
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=7))
    ids = data.draw(hnp.arrays(np.uint16, shape, elements=st.integers(0, 2)))
    known = data.draw(hnp.arrays(bool, shape, elements=st.sampled_from([True] * 9 + [False])))
    (target,) = make_targets({"mito": ids}, {"mito": known}, ["mito_distance"], voxel_size)
    steps = np.array(voxel_size) / min(voxel_size)
    # An unknown voxel may hold any id; here it holds its own, as in stored labels.
    assert np.array_equal(target, distance_by_hand(ids, known, steps))


@given(st.data(), st.tuples(*[st.integers(-3, 3)] * 3).filter(any))
@settings(max_examples=60, deadline=None)
def test_affinities_are_their_definition(data, offset):
    shape = data.draw(SHAPES)
    ids = data.draw(hnp.arrays(np.uint32, shape, elements=st.integers(0, 3)))
    known = data.draw(hnp.arrays(bool, shape, elements=st.sampled_from([True] * 5 + [False])))
    digits = make_targets({"mito": ids}, {"mito": known}, ["mito#low", "mito#high"])
    found = torch.empty(shape, dtype=torch.uint8)
    write_affinity(object_ids(*map(torch.from_numpy, digits)), offset, found)
    for place in np.ndindex(*shape):
        other = tuple(np.subtract(place, offset))
        beyond = any(not 0 <= o < n for o, n in zip(other, shape, strict=True))
        if beyond or not known[place] or not known[other]:
            expected = UNKNOWN
        else:
            expected = int(ids[place] == ids[other] > 0)
        assert found[place] == expected


@pytest.mark.parametrize(
    ("channel", "offset"),
    [
        ("cell_affinity_y", (0, 1, 0)),
        ("cell_affinity_180_0_0nm", (4, 0, 0)),
        ("cell_affinity_0_9.2_-18.4nm", (0, 1, -2)),
        ("cell_boundary", None),
        ("cell", None),
    ],
)
def test_offset_of_a_channel_in_voxels(channel, offset):
    assert affinity_offset(channel, (45, 9.2, 9.2)) == offset


def test_digits_distinguish_many_objects():
    ids = np.arange(3000, dtype=np.uint64).reshape(10, 10, 30)
    low, high = make_targets({"ves": ids}, {}, ["ves#low", "ves#high"]).astype(int)
    assert low.max() < UNKNOWN and high.max() < UNKNOWN
    assert (low + high == 0).sum() == 1
    # Neighbors have the same digits with a probability of 1 in 65,024.
    mixed = low + 255 * high
    assert (np.diff(mixed.ravel()) == 0).sum() <= 1


def test_channels_of_a_class():
    along_axes = ["_affinity_z", "_affinity_y", "_affinity_x"]
    wanted = {"mito": ["_boundary", "_distance", *along_axes], "nuc": [], "er": ["_distance"]}
    channels = output_channels(["mito", "nuc", "er", "ves"], wanted)
    assert channels == [
        "mito", "mito_boundary", "mito_distance", "mito_affinity_z", "mito_affinity_y",
        "mito_affinity_x", "nuc", "er", "er_distance", "ves", "ves_boundary",
    ]  # fmt: skip
    assert {class_of(channel) for channel in channels} == {"mito", "nuc", "er", "ves"}
    assert stored_channels(channels)[3:5] == ["mito#low", "mito#high"]
    far = MAX_DISTANCE_VOXELS
    assert target_divisors(channels) == [1, 1, far, 1, 1, 1, 1, 1, far, 1, 1]


def test_descriptors_are_made_from_the_ids_of_their_class():
    channels = output_channels(["mito", "er"], {"mito": DESCRIPTOR_SUFFIXES, "er": ["_boundary"]})
    assert stored_channels(channels) == ["mito", "mito#low", "mito#high", "er", "er_boundary"]
    assert {class_of(channel) for channel in channels} == {"mito", "er"}
    assert [is_descriptor(channel) for channel in channels] == [False, *[True] * 10, False, False]
    assert target_divisors(channels) == [1, *[254] * 10, 1, 1]


def test_long_range_affinities_share_the_ids_of_their_class():
    long_range = "mito_affinity_0_-32_8nm"
    channels = ["mito", long_range, "mito_affinity_z", "er", "er_affinity_40_0_0nm"]
    assert stored_channels(channels) == ["mito", "mito#low", "mito#high", "er", "er#low", "er#high"]
    assert class_of(long_range) == "mito"
    assert is_affinity(long_range) and not is_affinity("mito_boundary")
    assert long_range_offset_nm(long_range) == (0, -32, 8)
    assert "mito" + long_range_suffix((0.0, -32.0, 8.0)) == long_range


def test_touching_objects_have_boundaries_on_both_sides():
    ids = np.zeros((1, 1, 8), np.uint16)
    ids[0, 0, 1:7] = [300, 300, 300, 7, 7, 7]
    (boundary,) = make_targets({"mito": ids}, {}, ["mito_boundary"])
    assert boundary[0, 0].tolist() == [0, 1, 0, 1, 1, 0, 1, 0]


def test_the_faces_of_the_patch_are_no_boundary():
    ids = np.ones((3, 4, 5), np.uint8)
    assert not make_targets({"cell": ids}, {}, ["cell_boundary"]).any()


def test_targets_that_depend_on_unknown_voxels_are_unknown():
    ids = np.array([[[0, 5, 5, 5, 5, 0]]], np.uint8)
    known = np.array([[[False, True, True, True, False, True]]])
    targets = make_targets({"mito": ids}, {"mito": known}, ["mito", "mito_boundary"])
    assert targets[0, 0, 0].tolist() == [255, 1, 1, 1, 255, 0]
    # The last voxel is in no object, whatever its neighbor is.
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
    # It takes 15 to 30 ms on one core; the limit allows for a busy machine.
    assert min(times) < 0.3


def test_contradictory_annotations_are_forgotten():
    channels = ["mito", "mito_boundary", "mito_mem", "ecs"]
    atoms = [["mito", "mito_mem"], ["mito"], ["ecs"]]
    rows = np.array(
        [
            [1, 1, 1, 0],
            [1, 0, UNKNOWN, 1],  # Two disjoint classes.
            [0, 0, 1, 0],  # A part without its whole.
            [1, 0, 0, UNKNOWN],
            [0, UNKNOWN, 0, 0],
        ],
        np.uint8,
    )
    after = rows.copy()
    forget_contradictions(after, channels, atoms)
    assert after[[0, 3, 4]].tolist() == rows[[0, 3, 4]].tolist()
    assert after[1].tolist() == [UNKNOWN, 0, UNKNOWN, UNKNOWN]
    # Then the whole cannot be absent.
    assert after[2].tolist() == [UNKNOWN, 0, 1, 0]
    forget_contradictions(after, channels, [])


def test_a_class_without_any_of_its_parts_is_kept():
    """In a coarse voxel, each part may have less than half of the voxel."""
    channels = ["mito", "mito_mem", "mito_lum", "ecs"]
    atoms = [["mito", "mito_mem"], ["mito", "mito_lum"], ["ecs"]]
    rows = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], np.uint8)
    forget_contradictions(rows, channels, atoms)
    assert rows.tolist() == [[1, UNKNOWN, UNKNOWN, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("scale", "scaled"),
    [
        (0.5, [0, 2, 4, 8, 8, 8, UNKNOWN]),
        (1, [0, 1, 2, 4, 7, 8, UNKNOWN]),
        # A stored 8 means 8 or more, and 4 or more in voxels of the patch.
        (2, [0, 1, 1, 2, 4, UNKNOWN, UNKNOWN]),
    ],
)
def test_distances_in_scaled_patches(scale, scaled):
    stored = torch.tensor([0, 1, 2, 4, 7, 8, UNKNOWN], dtype=torch.uint8)
    table = torch.stack([stored, stored], dim=1)
    result = scale_distances(table, ["mito", "mito_distance"], scale)
    assert result[:, 0].tolist() == stored.tolist() == table[:, 1].tolist()
    assert result[:, 1].tolist() == scaled
