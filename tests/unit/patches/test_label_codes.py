import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.label_codes import (
    BlockCache,
    CodeBlock,
    LabelCodes,
    encode_targets,
    read_targets,
)

CHANNELS = ["mito", "mito_boundary", "pm", "er"]
GRID = Grid((8, 8, 8), (0, 0, 0), (100, 70, 64))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_targets_survive_encoding(seed, channels):
    rng = np.random.default_rng(seed)
    targets = rng.choice([0, 1, 255], (channels, 5, 4, 3)).astype(np.uint8)
    targets[rng.random(channels) < 0.4] = rng.choice([0, 1, 255])
    codes, rows = encode_targets(targets)
    assert np.array_equal(np.moveaxis(rows[codes], -1, 0), targets)
    assert len(np.unique(rows, axis=0)) == len(rows) == codes.max() + 1


@pytest.fixture(scope="module")
def crop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    create(folder / "raw", GRID, "uint8").write(np.zeros(GRID.shape, np.uint8)).result()
    (folder / "crop1").mkdir()
    coarse = rng.integers(0, 4, (10, 7, 7))
    ids = coarse.repeat(10, 0).repeat(10, 1).repeat(10, 2)[:, :, :64]
    for label in ("mito", "pm"):
        create(folder / "crop1" / label, GRID, "uint16").write(ids.astype(np.uint16)).result()
    return CropData(folder / "raw", folder / "crop1", ["mito", "pm"], (8, 8, 8))


def boxes():
    axis = [st.tuples(st.integers(-20, n - 1), st.integers(1, 60)) for n in GRID.shape]
    return st.tuples(*axis).filter(lambda box: all(start + n > 0 for start, n in box))


@given(boxes())
@settings(max_examples=25, deadline=None)
def test_any_box_has_the_targets_of_its_labels(crop, box):
    codes = LabelCodes(crop, CHANNELS, {}, BlockCache(10**8))
    start, shape = zip(*box, strict=True)
    found, table = codes.read(start, shape)
    # With the neighbors of the outermost voxels, which their boundary depends on.
    around = crop.grid.box(start, shape).padded((1, 1, 1))
    expected = read_targets(crop, around, CHANNELS, {})[:, 1:-1, 1:-1, 1:-1]
    assert np.array_equal(np.moveaxis(table[found], -1, 0), expected)


def test_columns_list_only_values_in_the_box(crop):
    codes = LabelCodes(crop, CHANNELS, {}, BlockCache(10**8))
    codes.read((0, 0, 0), GRID.shape)
    _, table = codes.read((10, 10, 10), (20, 20, 20))
    assert (table[:, 3] == 255).all()
    assert (table[:, :3] != 255).any()
    _, table = codes.read((-10, 0, 0), (5, 5, 5))
    assert (table == 255).all()


@pytest.mark.parametrize("start", [(-9, 0, 0), (120, 0, 0), (0, 0, 300), (120, 300, -9)])
def test_a_box_beyond_the_crop_is_unknown(crop, start):
    """Patches that reach far beyond a crop, and are scaled, are read from such boxes."""
    codes = LabelCodes(crop, CHANNELS, {}, BlockCache(10**8))
    found, table = codes.read(start, (5, 6, 7))
    assert found.shape == (5, 6, 7) and (table[found] == 255).all()


def test_a_small_cache_gives_the_same_codes(crop):
    small, large = BlockCache(1), BlockCache(10**8)
    read = [LabelCodes(crop, CHANNELS, {}, cache).read((0, 0, 0), GRID.shape) for cache in
            (small, large)]  # fmt: skip
    assert np.array_equal(*[table[codes] for codes, table in read])
    assert len(small._blocks) == 1 and len(large._blocks) == 4


def test_the_least_recently_used_blocks_are_dropped():
    cache = BlockCache(3 * CodeBlock(b"x" * 1000, np.zeros(1, np.uint16)).nbytes)
    for key in range(3):
        cache.put((key,), CodeBlock(b"x" * 1000, np.zeros(1, np.uint16)))
    assert cache.get((0,))
    cache.put((3,), CodeBlock(b"x" * 1000, np.zeros(1, np.uint16)))
    assert [bool(cache.get((key,))) for key in range(4)] == [True, False, True, True]
    assert cache.used_bytes <= cache.limit_bytes


def test_voxels_beyond_the_raw_are_unknown(crop, tmp_path):
    create(tmp_path / "raw", GRID.box((5, 0, 0), (90, 70, 64)), "uint8")
    cut = CropData(tmp_path / "raw", crop.label_folder, crop.annotated, crop.voxel_size)
    assert cut.grid == crop.grid
    codes, table = LabelCodes(cut, CHANNELS, {}, BlockCache(10**8)).read((0, 0, 0), GRID.shape)
    known = (table[codes] != 255).any(axis=-1)
    assert not known[:5].any() and not known[95:].any() and known[5:95].all()
