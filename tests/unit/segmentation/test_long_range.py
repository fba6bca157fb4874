"""Long-range affinities: where neighbors alone do not tell objects apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import adapted_rand_error

from cellmap_pipeline.channels import AFFINITY_SUFFIXES, long_range_offset_nm
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.segmentation.agglomeration import find_contacts
from cellmap_pipeline.segmentation.blocks import Block
from cellmap_pipeline.segmentation.blockwise.fragments import LandscapeReader
from cellmap_pipeline.segmentation.blockwise.segment import segment_blocks
from cellmap_pipeline.segmentation.landscapes import signed_affinities
from cellmap_pipeline.segmentation.long_range import (
    LongRange,
    find_long_range_contacts,
    long_range_offsets,
    pool_long_range,
    ridge_height,
)
from cellmap_pipeline.segmentation.method_settings import complete
from cellmap_pipeline.segmentation.methods import METHODS
from cellmap_pipeline.segmentation.probabilities import Probabilities, read_probability
from tests.support.labels import segment
from tests.support.simulated import filling, predicted, sheets, shells, tubes

VOXELS = (8.0, 8.0, 8.0)
OFFSETS = [(4, 0, 0), (0, 4, 0), (0, 0, 4), (0, 4, 4), (4, 0, 4), (4, 4, 0)]
AFFINITY_SETTINGS = {
    "watershed_affinities": {"seed_threshold": 0.1},
    "mutex_watershed": {"affinity_threshold": 0.9},
}
METHODS_OF_AFFINITIES = list(AFFINITY_SETTINGS)


def rand_error(labels, truth):
    return adapted_rand_error(truth, labels, ignore_labels=(0,))[0]


def best_error(channels, truth, method):
    """Return the lowest error over thresholds of merging."""
    own = {"method": method} | AFFINITY_SETTINGS[method]
    return min(
        rand_error(segment("cell", channels, VOXELS, own | {"merge_threshold": t}), truth)
        for t in (0.1, 0.2, 0.3, 0.4, 0.5)
    )


@pytest.mark.parametrize("method", METHODS_OF_AFFINITIES)
@pytest.mark.parametrize("drawn", [tubes, sheets, shells])
def test_long_range_affinities_separate_what_neighbors_do_not(drawn, method):
    truth = drawn()
    # Boundaries whose place is uncertain: the affinity of neighbors is above 1/2 everywhere.
    channels = predicted(truth, "cell", blur=2.0, noise=0.15, offsets=OFFSETS)
    of_neighbors = {k: v for k, v in channels.items() if long_range_offset_nm(k) is None}
    error = best_error(channels, truth, method)
    assert error < (0.35 if method == "mutex_watershed" else 0.12)
    # Tubes hardly touch: there, a watershed loses most voxels to its choice of the inside.
    assert drawn is tubes or error < 0.7 * best_error(of_neighbors, truth, method)


@given(st.data(), st.lists(st.tuples(*[st.integers(-3, 3)] * 3).filter(any), max_size=3))
@settings(max_examples=50, deadline=None)
def test_long_range_contacts_are_their_definition(data, offsets):
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
    labels = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 3)))
    rng = np.random.default_rng(0)
    pairs = [LongRange(offset, rng.random(shape, np.float32)) for offset in offsets]
    area, total = {}, {}
    for one in pairs:
        for place in np.ndindex(*shape):
            other = tuple(np.subtract(place, one.offset))
            if any(not 0 <= o < n for o, n in zip(other, shape, strict=True)):
                continue
            key = tuple(sorted((int(labels[place]), int(labels[other]))))
            if key[0] and key[0] != key[1]:
                weight = 1 / np.abs(one.offset).sum()
                area[key] = area.get(key, 0) + weight
                total[key] = total.get(key, 0) + weight * one.boundary[place]
    found = find_long_range_contacts(labels, pairs)
    keys = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert keys == sorted(area)
    np.testing.assert_allclose(found.area, [area[key] for key in keys])
    np.testing.assert_allclose(found.mean, [total[key] / area[key] for key in keys], rtol=1e-5)
    # Fragments that share no face are left out.
    faces = find_contacts(labels, lambda axis: np.zeros(labels.shape))
    pooled = pool_long_range(faces, found, int(labels.max()) + 1)
    assert np.array_equal(pooled.first, faces.first) and np.array_equal(pooled.second, faces.second)
    added = [area.get(key, 0) for key in zip(faces.first, faces.second, strict=True)]
    np.testing.assert_allclose(pooled.area, faces.area + added)


def test_voxels_at_a_distance_only_repel_each_other():
    boundary = np.array([[[0.0, 0.0, 0.1, 0.9, 0.2]]], np.float32)
    inside = np.array([[[True, True, True, True, False]]])
    nearest = [np.zeros_like(boundary)] * 3
    signed = signed_affinities(nearest, [LongRange((0, 0, 2), boundary)], inside, 0.5)
    assert signed.shape == (4, 1, 1, 5)
    np.testing.assert_allclose(signed[3, 0, 0], [0, 0, 0, -0.8, 0], atol=1e-6)


def test_a_boundary_between_neighbors_is_a_ridge_on_both():
    nearest = [np.zeros((1, 1, 6), np.float32) for _ in range(3)]
    nearest[2][..., 3] = 0.9  # between the voxels 2 and 3
    np.testing.assert_allclose(ridge_height(nearest, [])[0, 0], [0, 0, 0.3, 0.3, 0, 0], atol=1e-6)


@pytest.mark.parametrize("draw", [tubes, sheets, shells, filling])
def test_objects_of_perfect_affinities_are_found_by_the_default_settings(draw):
    truth = draw()
    channels = predicted(truth, "cell", blur=0, noise=0)
    labels = segment("cell", channels, VOXELS, {"method": "watershed_affinities"})
    assert rand_error(labels, truth) < 0.03


def test_neighbors_of_another_voxel_size_meet_at_the_same_face(tmp_path):
    """The boundary lies at 28 nm, between the voxels 3 and 4 of 8 nm, and 7 and 8 of 4 nm."""
    values = np.full((8, 8, 8), 255, np.uint8)
    values[..., 4] = 0
    grid = Grid((8, 8, 8), (0, 0, 0), (8, 8, 8))
    for channel in ("cell_affinity_x", "cell_affinity_y", "cell"):
        create(tmp_path / channel, grid, "uint8").write(values).result()
    fine = Grid((4, 4, 4), (-2, -2, -2), (16, 16, 16))
    along_x = {
        channel: read_probability(tmp_path / channel, fine)[5, 5].tolist()
        for channel in ("cell_affinity_x", "cell_affinity_y", "cell")
    }
    assert along_x["cell_affinity_x"][6:11] == [255, 128, 0, 128, 255]
    # Along other axes, and of voxels, there is nothing to shift.
    assert along_x["cell"][6:11] == along_x["cell_affinity_y"][6:11] == [255, 191, 64, 64, 191]
    assert read_probability(tmp_path / "cell_affinity_x", grid).tolist() == values.tolist()


def test_ridges_of_long_range_affinities_lie_on_the_boundary():
    """Two objects meet between the voxels 4 and 5; the pairs (5, 1) to (8, 4) tell of it."""
    nearest = [np.zeros((1, 1, 10), np.float32)] * 3
    boundary = np.zeros((1, 1, 10), np.float32)
    boundary[..., 5:9] = 1
    height = ridge_height(nearest, [LongRange((0, 0, 4), boundary)])
    np.testing.assert_allclose(height[0, 0], [0, 0, 0, 0.25, 0.25, 0.25, 0.25, 0, 0, 0])


@pytest.mark.parametrize(
    ("voxel_size", "offsets"),
    [
        ((8, 8, 8), {"a": (4, 0, 0), "b": (0, 2, -2)}),
        ((16, 16, 16), {"a": (2, 0, 0), "b": (0, 1, -1)}),
        # 32 / 13.92 = 2.3, 16 / 13.92 = 1.1.
        ((13.92, 13.92, 13.92), {"a": (2, 0, 0), "b": (0, 1, -1)}),
        # One rounds to the nearest neighbor, the other one to the voxel itself.
        ((32, 40, 40), {}),
    ],
)
def test_offsets_on_other_grids_are_rounded(voxel_size, offsets):
    names = {"mito_affinity_32_0_0nm": "a", "mito_affinity_0_16_-16nm": "b"}
    others = ["mito", "mito_affinity_z", "mito_mem_affinity_32_0_0nm"]
    found = long_range_offsets("mito", [*names, *others], voxel_size)
    assert {names[name]: offset for name, offset in found.items()} == offsets


def test_of_offsets_that_round_alike_the_nearest_is_used():
    names = [f"mito_affinity_0_0_{nm}nm" for nm in (24, 30, 36, 40, 52)]
    found = long_range_offsets("mito", names, (16, 16, 16))
    # 24 / 16 = 1.5 and 40 / 16 = 2.5 round away from 0.
    assert found == {names[1]: (0, 0, 2), names[4]: (0, 0, 3)}


def test_methods_read_no_more_than_they_need():
    available = ["cell", "cell_boundary", "cell_distance", *("cell" + s for s in AFFINITY_SUFFIXES)]
    available.append("cell_affinity_32_0_0nm")
    assert METHODS["connected_components"].channels("cell", available) == ["cell"]
    assert METHODS["watershed_boundary"].channels("cell", available) == available[:2]
    read = METHODS["mutex_watershed"].channels("cell", available)
    assert read == ["cell", *available[3:]]


def written(channels, folder):
    """Write the channels of `cell`, and return them as predictions of it."""
    grid = Grid(VOXELS, (0, 0, 0), channels["cell"].shape)
    for name, values in channels.items():
        create(folder / name, grid, "uint8").write(values).result()
    return Probabilities("cell", grid, [[folder / "cell"]])


def test_channels_of_all_predictions_are_used(tmp_path):
    channels = predicted(sheets((8, 9, 10)), "cell", offsets=[(4, 0, 0), (0, 5, -3)])
    one, other = (written(channels, tmp_path / name) for name in ("one", "other"))
    assert set(one.channels) == set(channels)
    (tmp_path / "other/cell_affinity_0_40_-24nm").rename(tmp_path / "other/nucleus")
    (tmp_path / "other/cell_affinity_x").rename(tmp_path / "other/x")
    both = Probabilities("cell", one.grid, [*one.predictions, *other.predictions])
    assert both.channels == ["cell", "cell_boundary", "cell_distance", "cell_affinity_32_0_0nm"]


@pytest.mark.parametrize("offsets", [[], [(4, 0, 0), (0, 5, -3)]], ids=["neighbors", "distance"])
@pytest.mark.parametrize("method", METHODS_OF_AFFINITIES)
def test_windows_have_the_landscape_of_the_whole_volume(tmp_path, method, offsets):
    truth = sheets((24, 30, 40))
    channels = predicted(truth, "cell", blur=2.0, offsets=offsets)
    chosen = complete("cell", {"method": method, "smooth_nm": 8}, ["affinities"])
    reader = LandscapeReader(written(channels, tmp_path), chosen, tmp_path)
    whole = reader.landscape(Block(0, (0, 0, 0), truth.shape))
    box = Block(1, (5, 7, 9), (15, 21, 33))
    part, wanted = reader.landscape(box), whole.cropped(tuple(map(slice, box.start, box.stop)))
    assert part.inside.shape == box.shape
    assert np.array_equal(part.inside, wanted.inside)
    assert np.array_equal(part.seedable, wanted.seedable)
    assert len(part.long_range) == len(offsets)
    pairs = [
        (one.boundary, two.boundary)
        for one, two in zip(part.long_range, wanted.long_range, strict=True)
    ]
    pairs += [(part.faces(axis), wanted.faces(axis)) for axis in range(3)]
    for name in ("height", "affinities"):
        if getattr(whole, name) is not None:
            pairs.append((getattr(part, name), getattr(wanted, name)))
    for one, two in pairs:
        assert one.shape == two.shape
        # The pairs of voxels whose second one lies outside of the window are not in it.
        inner = (..., slice(4, None), slice(5, None), slice(None, -3)) if offsets else ...
        np.testing.assert_allclose(one[inner], two[inner], atol=1e-5)


@pytest.mark.parametrize("method", METHODS_OF_AFFINITIES)
@pytest.mark.parametrize("shape", [(6, 30, 30), (70, 20, 20)], ids=str)
def test_offsets_may_be_longer_than_a_volume_or_a_block(tmp_path, method, shape):
    truth = sheets(shape, thickness=30)
    channels = predicted(truth, "cell", offsets=[(24, 0, 0), (0, 4, 0)])
    own = {"method": method, "merge_threshold": 0.3} | AFFINITY_SETTINGS[method]
    whole = segment("cell", channels, VOXELS, own)
    chosen = complete("cell", own, ["affinities"])
    # The last block and its halo have 22 planes along z.
    segment_blocks(written(channels, tmp_path / "p"), chosen, tmp_path / "s", {}, 1, 64)
    made = Volume.open(tmp_path / "s").levels[0].read((0, 0, 0), shape)
    assert rand_error(whole, truth) < 0.1
    assert rand_error(made, whole) < 0.02


def test_blocks_do_not_join_what_voxels_at_a_distance_separate(tmp_path):
    """Two cells touch where two blocks do, and their neighbors there look like one cell."""
    truth = np.ones((128, 24, 24), np.uint16)
    truth[64:] = 2
    offsets = [(2, 0, 0), (4, 0, 0), (6, 0, 0)]
    channels = predicted(truth, "cell", noise=0, blur=0.01, offsets=offsets)
    channels["cell_affinity_z"][64] = 230
    own = {"method": "mutex_watershed", "affinity_threshold": 0.5, "merge_threshold": 0.3}
    chosen = complete("cell", own, ["affinities"])
    segment_blocks(written(channels, tmp_path / "p"), chosen, tmp_path / "s", {}, 1, 64)
    made = Volume.open(tmp_path / "s").levels[0].read((0, 0, 0), truth.shape)
    assert np.array_equal(segment("cell", channels, VOXELS, own), truth)
    assert np.array_equal(made, truth)


@pytest.mark.parametrize("method", METHODS_OF_AFFINITIES)
def test_blocks_give_the_labels_of_the_whole_volume(tmp_path, method):
    truth = sheets((90, 80, 70), thickness=12)
    channels = predicted(truth, "cell", blur=1.5, noise=0.1, offsets=OFFSETS[:3])
    own = {"method": method, "merge_threshold": 0.35} | AFFINITY_SETTINGS[method]
    probabilities = written(channels, tmp_path / "p")
    segment_blocks(probabilities, complete("cell", own, ["affinities"]), tmp_path / "s", {}, 1, 64)
    made = Volume.open(tmp_path / "s").levels[0].read((0, 0, 0), truth.shape)
    whole = segment("cell", channels, VOXELS, own)
    assert rand_error(whole, truth) < 0.1
    assert rand_error(made, whole) < 0.02
