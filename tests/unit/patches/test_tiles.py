"""Which tiles validation reads."""

import logging

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.loader import make_loaders
from cellmap_pipeline.patches.tiles import ValidationTiles
from tests.support.patches import CROP_GRID, Patches, simple_reader, training

SIDE = 32


def chosen(readers, number, classes="abc"):
    """Choose tiles of 32 voxels a side; return for each the number of its reader and its place."""
    made = training(
        classes=list(classes), patch_size=SIDE, batch_size=1, validation_iterations=number
    )
    tiles = ValidationTiles(readers, made)
    found = [
        (readers.index(reader), tuple(s // SIDE for s in start)) for reader, start in tiles.tiles
    ]
    return found, tiles.missed_classes


def at(*tile):
    """Return a voxel in the middle of a tile."""
    return np.array(tile) * SIDE + SIDE // 2


def test_validation_tiles_cover_the_crop_once(crops):
    tiles = Patches(crops, training()).tiles.read.__self__
    assert len(tiles) == 2 * 2 * 2
    seen = np.zeros(CROP_GRID.shape, int)
    for _, start in tiles.tiles:
        seen[tuple(slice(s, s + 32) for s in start)] += 1
    assert seen.min() == 1
    few = Patches(crops, training(validation_iterations=1)).tiles
    assert len(few.read.__self__) == 2 and len(few) == 1


def test_tiles_after_the_last_are_unknown(crops):
    patches = Patches(crops, training(patch_size=48))
    _, target = patches.build([patches.tiles.read(1)])
    assert (target == 255).all()


def test_each_class_has_its_quota():
    """A crop of 216 tiles annotates one class, which occurs in all; four of one tile have two."""
    everywhere = [at(*tile) for tile in np.ndindex(6, 6, 6)]
    huge = simple_reader(6 * SIDE, {"a": everywhere})
    small = [simple_reader(SIDE, {"b": [at(0, 0, 0)], "c": [at(0, 0, 0)]}) for _ in range(4)]
    tiles, missed = chosen([huge, *small], 12)
    assert not missed and len(tiles) == len(set(tiles)) == 12
    readers = [reader for reader, _ in tiles]
    assert [readers.count(i) for i in range(5)] == [8, 1, 1, 1, 1]


def test_the_only_tile_with_a_class_is_chosen():
    rare = simple_reader(6 * SIDE, {"a": [at(0, 0, 0), at(3, 3, 3)], "b": [at(5, 1, 4)]})
    common = [simple_reader(2 * SIDE, {"a": [at(0, 1, 0)]}, "b") for _ in range(3)]
    tiles, missed = chosen([rare, *common], 3)
    assert (0, (5, 1, 4)) in tiles and not missed
    # Whatever is left after the tiles with classes is spread over the crops that annotate one.
    tiles, _ = chosen([rare, *common], 16)
    assert {(0, (0, 0, 0)), (0, (3, 3, 3)), (0, (5, 1, 4)), (1, (0, 1, 0)), (2, (0, 1, 0)),
            (3, (0, 1, 0))} <= set(tiles)  # fmt: skip
    readers = [reader for reader, _ in tiles]
    assert min(readers.count(i) for i in range(4)) >= 3


def test_a_tile_counts_for_all_of_its_classes():
    several = simple_reader(SIDE, dict.fromkeys("abc", [at(0, 0, 0)]))
    single = [simple_reader(2 * SIDE, {label: [at(1, 0, 1)]}) for label in "abc"]
    assert chosen([*single, several], 1) == ([(3, (0, 0, 0))], [])
    assert chosen(single, 2)[1] == ["c"]


def test_tiles_are_spread_over_a_large_crop():
    tiles, _ = chosen([simple_reader(8 * SIDE, {}, "a")], 64)
    octants = np.array([place for _, place in tiles]) // 4
    _, counts = np.unique(octants, axis=0, return_counts=True)
    assert len(counts) == 8 and counts.min() >= 6 and counts.max() <= 10


@given(st.data())
def test_known_classes_are_seen_where_tiles_allow_it(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    readers = []
    for size in sizes:
        place = st.tuples(*[st.integers(0, size - 1)] * 3).map(lambda tile: at(*tile))
        positions = st.dictionaries(st.sampled_from("abc"), st.lists(place, max_size=4))
        readers.append(simple_reader(size * SIDE, data.draw(positions), "c"))
    number = data.draw(st.integers(1, 40))
    tiles, missed = chosen(readers, number)
    assert tiles == chosen(readers, number)[0] == sorted(set(tiles))
    assert len(tiles) == min(number, sum(size**3 for size in sizes))
    # A crop with a single tile needs no positions.
    known = {
        c
        for r, size in zip(readers, sizes, strict=True)
        for c in r.crop.present_classes
        if size == 1 or len(r.crop.positions(c))
    }
    if number >= len(known):
        assert not known & set(missed)


def test_classes_that_no_tile_holds_are_logged(tmp_path, caplog):
    """Two tiles are allowed, and three classes lie in three corners."""
    ids = np.zeros(CROP_GRID.shape, np.uint8)
    create(tmp_path / "raw", CROP_GRID, "uint8", chunk=16).write(ids).result()
    (tmp_path / "crop1").mkdir()
    for label, corner in (("a", (0, 0, 0)), ("b", (39, 0, 0)), ("c", (0, 43, 47))):
        ids[:] = 0
        ids[corner] = 1
        create(tmp_path / "crop1" / label, CROP_GRID, "uint8").write(ids).result()
    crops = [CropData(tmp_path / "raw", tmp_path / "crop1", ["a", "b", "c"], (8, 8, 8))]
    made = training(classes=["a", "b", "c"], validation_iterations=1)
    with caplog.at_level(logging.WARNING):
        make_loaders({"train": crops, "validate": crops}, made, rank=1, world_size=2)
        assert not caplog.messages
        make_loaders({"train": crops, "validate": crops}, made)
    (message,) = caplog.messages
    assert "none of the 2 validation patches is known to hold a voxel of c" in message
