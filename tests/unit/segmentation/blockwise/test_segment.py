"""Labels made block by block equal those of the whole volume."""

import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cc3d
import fastremap
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import adapted_rand_error

import cellmap_pipeline.io.arrays as levels
import cellmap_pipeline.segmentation.blockwise.segment as block_segment
from cellmap_pipeline.channels import auxiliary_kinds
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.run.pools import WORKER_CACHE_BYTES, Workers, workers
from cellmap_pipeline.segmentation.agglomeration import Contacts
from cellmap_pipeline.segmentation.blocks import ScratchVolume, split_into_blocks
from cellmap_pipeline.segmentation.blockwise.components import label_blocks
from cellmap_pipeline.segmentation.blockwise.joining import join_across_blocks
from cellmap_pipeline.segmentation.blockwise.segment import segment_blocks
from cellmap_pipeline.segmentation.method_settings import complete
from cellmap_pipeline.segmentation.methods import Method
from cellmap_pipeline.segmentation.probabilities import Probabilities
from tests.support.labels import segment
from tests.support.simulated import filling, inner_boundary, predicted, spheres, with_gaps

VOXELS = (8.0, 8.0, 8.0)
RIDGES = ("watershed_boundary", "watershed_learned_distance", "watershed_affinities")


def part(volume, block):
    return volume[tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))]


@settings(deadline=None, max_examples=25)
@example(shape=(2, 65, 1), share=0.5, values=1, connectivity=6, seed=0)
@given(
    shape=st.tuples(*[st.integers(1, 150)] * 3).filter(lambda s: np.prod(s) < 400_000),
    share=st.floats(0.05, 0.9),
    values=st.integers(1, 3),
    connectivity=st.sampled_from([6, 26]),
    seed=st.integers(0, 1000),
)
def test_components_found_in_blocks_equal_those_of_the_whole_volume(
    shape, share, values, connectivity, seed
):
    rng = np.random.default_rng(seed)
    volume = rng.integers(1, values + 1, shape).astype(np.uint8) * (rng.random(shape) < share)
    with tempfile.TemporaryDirectory() as folder:
        found = label_blocks(
            partial(part, volume),
            split_into_blocks(shape, 64),
            ScratchVolume(Path(folder), shape, "uint32"),
            connectivity,
            Workers(None),
            "parts",
        )
        labels = found.read((0, 0, 0), shape)
    whole = cc3d.connected_components(volume, connectivity=connectivity)
    wanted, _ = fastremap.renumber(whole)
    assert np.array_equal(labels, wanted)
    sizes = np.bincount(labels.ravel(), minlength=found.sizes.size)
    assert found.sizes[1:].tolist() == sizes[1:].tolist()
    flat = labels.ravel()
    for i in range(1, found.sizes.size):
        assert flat[found.first[i]] == i and not (flat[: found.first[i]] == i).any()
        assert volume.ravel()[found.first[i]] == found.values[i]


def made(channels, chosen, folder, label, voxel_size=VOXELS, threads=1, size=64):
    """Segment in blocks; return the written label."""
    grid = Grid(voxel_size, (100, 0, -50), channels[label].shape)
    for name, values in channels.items():
        create(folder / "p" / name, grid, "uint8").write(values).result()
    probabilities = Probabilities(label, grid, [[folder / "p" / label]])
    chosen = complete(label, chosen, auxiliary_kinds(label, probabilities.channels))
    segment_blocks(probabilities, chosen, folder / "s", {}, threads, size)
    (level,) = Volume.open(folder / "s").levels
    assert level.grid == grid
    return level.read((0, 0, 0), grid.shape)


def rough(shape, seed=0):
    """Make noisy probabilities with holes, specks and large objects."""
    rng = np.random.default_rng(seed)
    coarse = rng.random([-(-n // 6) for n in shape])
    value = coarse.repeat(6, 0).repeat(6, 1).repeat(6, 2)[tuple(map(slice, shape))]
    return (255 * np.clip(value + 0.15 * rng.normal(size=shape), 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("label", ["er", "mito"])
@pytest.mark.parametrize("smooth", [0.0, 9.0], ids="smooth={} nm".format)
@pytest.mark.parametrize("fill", [False, True], ids="fill={}".format)
@pytest.mark.parametrize("smallest", [0, 2e5], ids="smallest={} nm³".format)
def test_labels_made_in_blocks_equal_those_of_the_whole_volume(
    tmp_path, label, smooth, fill, smallest
):
    channels = {label: rough((70, 66, 90))}
    chosen = {
        "threshold": 0.4, "smooth_nm": smooth, "fill_holes": fill, "min_size_nm3": smallest
    }  # fmt: skip
    voxel_size = (8.0, 4.0, 4.0)
    wanted = segment(label, channels, voxel_size, chosen)
    found = made(channels, chosen, tmp_path, label, voxel_size)
    assert found.dtype == wanted.dtype
    assert np.array_equal(found, wanted)
    assert 0 < wanted.astype(bool).mean() < 1


@pytest.mark.parametrize(
    ("method", "threads"),
    [
        ("watershed_distance", 1),
        ("watershed_boundary", 2),
        ("watershed_learned_distance", 1),
        ("watershed_affinities", 1),
        ("mutex_watershed", 2),
    ],
)
def test_objects_are_joined_across_blocks(tmp_path, monkeypatch, method, threads):
    monkeypatch.setattr(Method, "halo_voxels", 16)
    # Spheres that touch, one of them far larger than a block and its halo.
    truth = spheres(
        (120, 110, 150), (60, 55, 52, 46), (60, 55, 110, 14), (20, 90, 110, 18), (100, 20, 120, 16),
        (60, 55, 134, 12), (10, 10, 10, 8),
    )  # fmt: skip
    channels = predicted(truth, "mito", noise=0.04)
    chosen = {"method": method, "min_size_nm3": 1e5}
    wanted = segment("mito", channels, VOXELS, chosen)
    found = made(channels, chosen, tmp_path, "mito", threads=threads)
    error, _, _ = adapted_rand_error(wanted, found)
    assert error < 0.01
    assert found.max() == wanted.max() >= 5


@pytest.mark.parametrize("method", [*RIDGES, "mutex_watershed"])
def test_cells_that_fill_the_volume_are_joined_across_blocks(tmp_path, monkeypatch, method):
    monkeypatch.setattr(Method, "halo_voxels", 24)
    truth = filling((96, 84, 84), 20)
    channels = predicted(truth, "cell")
    channels["cell"][:] = 255
    channels["cell_boundary"] = with_gaps(channels["cell_boundary"])
    chosen = {"method": method, "merge_threshold": 0.5, "min_size_nm3": 1e5}
    wanted = segment("cell", channels, VOXELS, chosen)
    found = made(channels, chosen, tmp_path, "cell")
    error, _, _ = adapted_rand_error(wanted, found)
    assert error < 0.01


@pytest.mark.parametrize("method", ["watershed_distance", *RIDGES, "mutex_watershed"])
def test_single_block_equals_the_whole_volume(tmp_path, method):
    channels = predicted(spheres((40, 40, 40), (20, 20, 12, 9), (20, 20, 28, 9)), "mito")
    wanted = segment("mito", channels, VOXELS, {"method": method})
    found = made(channels, {"method": method}, tmp_path, "mito")
    assert found.max() > 0 and np.array_equal(found, wanted)


@pytest.mark.parametrize("method", RIDGES[:2])
def test_thin_objects_are_joined_across_blocks(tmp_path, method):
    # Nearly all voxels belong to a boundary, so seeds are small.
    truth = np.zeros((200, 40, 40), np.int32)
    for n, (y, x) in enumerate(np.ndindex(4, 4), 1):
        truth[:, 10 * y + 4 : 10 * y + 7, 10 * x + 4 : 10 * x + 7] = n
    channels = predicted(truth, "mt", noise=0.02)
    chosen = {"method": method, "threshold": 0.3, "min_size_nm3": 1e4}
    wanted = segment("mt", channels, VOXELS, chosen)
    found = made(channels, chosen, tmp_path, "mt")
    error, _, _ = adapted_rand_error(wanted, found)
    assert error < 0.01
    assert found.max() == wanted.max() == 16


def test_fragment_without_a_seed_never_joins_two_with_seeds():
    # Fragments 2 and 3 have no seeds and lie between 1 and 4, which do; 5 to 8 form a row of
    # their own.
    first, second = np.array([1, 2, 3, 5, 6, 7]), np.array([2, 3, 4, 6, 7, 8])
    area = np.array([9, 1, 5, 9, 1, 9])
    contacts = Contacts(first, second, area, np.ones(6), np.ones(6, np.float32))
    seedless = np.array([False, False, True, True, False, True, True, True, True])
    joined = join_across_blocks(contacts, contacts, 4, seedless, {"method": "watershed_boundary"})
    assert joined.tolist() == [0, 1, 1, 3, 3, 5, 5, 5, 5]


def test_one_open_face_at_a_cut_does_not_join_cells():
    # 1 continues as 2 across many open faces; 3 and 2 share one that is open by chance.
    first, second, area = np.array([1, 2]), np.array([2, 3]), np.array([50.0, 1.0])
    mean = np.array([0.1, 0.1])
    contacts = Contacts(first, second, area, mean, mean)
    chosen = {"method": "mutex_watershed", "affinity_threshold": 0.7}
    assert join_across_blocks(contacts, contacts, 0, np.zeros(4, bool), chosen).tolist() == [
        0,
        1,
        1,
        3,
    ]


@pytest.fixture(scope="module")
def large():
    """Predicted channels of objects of all sizes in 240³ voxels; two far exceed a block."""
    rng = np.random.default_rng(0)
    chance = [(*rng.uniform(0, 240, 3), rng.uniform(6, 25)) for _ in range(100)]
    truth = spheres((240,) * 3, (94, 112, 88, 70), (144, 119, 181, 44), *chance)
    noise = rng.standard_normal(truth.shape, np.float32)
    channels = {}
    for name, mask, sigma in (
        ("mito", truth > 0, 1.0), ("mito_boundary", inner_boundary(truth), 0.7)
    ):  # fmt: skip
        value = ndimage.gaussian_filter(mask.astype(np.float32), sigma) + np.float32(0.05) * noise
        channels[name] = (255 * value).clip(0, 255).astype(np.uint8)
    return channels


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["connected_components", "watershed_distance", "watershed_boundary"]
)
def test_large_volume_in_blocks_agrees_with_the_whole_volume(tmp_path, large, method):
    chosen = {"method": method, "min_size_nm3": 1e5}
    wanted = segment("mito", large, VOXELS, chosen, threads=2)
    found = made(large, chosen, tmp_path, "mito", threads=2, size=80)
    if method == "connected_components":
        assert np.array_equal(found, wanted)
        return
    error, _, _ = adapted_rand_error(wanted, found)
    assert error < 0.01
    assert found.max() > 40


def cache_limit(block):
    return levels.CONTEXT["cache_pool"].to_json()["total_bytes_limit"]


@pytest.mark.parametrize(("threads", "processes"), [(1, 1), (5, 5), (16, 8)])
def test_up_to_one_process_per_thread_and_block(tmp_path, monkeypatch, threads, processes):
    started = []

    @contextmanager
    def in_this_process(number):
        started.append(number)
        with workers(1) as pool:
            yield pool

    monkeypatch.setattr(block_segment, "workers", in_this_process)
    channels = {"er": np.zeros((20, 20, 20), np.uint8)}
    made(channels, {}, tmp_path, "er", threads=threads, size=10)
    assert started == [processes]


def test_workers_have_small_caches():
    with workers(2) as run:
        limits = list(run.run(cache_limit, split_into_blocks((8, 4, 4), 4), "limits"))
    assert limits == [WORKER_CACHE_BYTES] * 2 and WORKER_CACHE_BYTES < levels.CACHE_BYTES


def test_empty_volume_has_no_labels(tmp_path):
    channels = predicted(np.zeros((70, 70, 70), np.uint16), "mito", noise=0)
    for method in ("connected_components", "watershed_distance", "watershed_boundary"):
        found = made(channels, {"method": method}, tmp_path / method, "mito")
        assert found.dtype == np.uint8 and not found.any()
