"""The level of a volume that is read at a voxel size."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import TOLERANCE_VOXELS, Grid
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.levels import level_to_read, nearest_level
from cellmap_pipeline.io.volumes import Volume

SIZES = st.sampled_from([2.0, 3.24, 4.0, 5.24, 6.96, 8.0, 16.0])
VOXEL_SIZES = st.tuples(SIZES, SIZES, SIZES)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ((4, 4, 4), 0),
        ((8, 8, 8), 1),
        ((7.8, 8, 8), 0),
        ((7.99, 8, 8), 1),  # rounded to 8
        ((16, 8, 8), 1),  # too fine for the last level on two axes
        ((100, 100, 100), 2),
        ((2, 2, 2), 0),  # the finest one, although it is too coarse
    ],
    ids=str,
)
def test_coarsest_level_that_is_fine_enough_is_read(wanted, index):
    assert level_to_read([(4, 4, 4), (8, 8, 8), (16, 16, 16)], wanted) == index


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ((4, 4, 4), 0),
        ((5, 5, 5), 0),
        ((6.5, 6.5, 6.5), 1),
        ((3.48, 4, 4), 0),
        ((8, 4, 4), 0),  # equally near: the finer one
        ((100, 100, 100), 2),
    ],
    ids=str,
)
def test_level_with_the_nearest_voxel_size_is_found(wanted, index):
    assert nearest_level([(4, 4, 4), (8, 8, 8), (16, 16, 16)], wanted) == index


def volume(voxel_sizes, present):
    """Make a volume with levels of these voxel sizes, some of them absent."""
    levels = [
        Level(Path(f"raw/s{i}"), Grid(size, (0, 0, 0), (4, 4, 4)))
        for i, size in enumerate(voxel_sizes)
    ]
    absent = [(a.path, a.grid.voxel_size) for a in levels if a.path.name not in present]
    return Volume(Path("raw"), [a for a in levels if a.path.name in present], {}, absent)


@given(st.lists(VOXEL_SIZES, min_size=1, max_size=5, unique=True), st.data())
def test_fetched_level_is_the_level_that_is_read(voxel_sizes, data):
    """`data.fetching` uses `level_to_read`; a local copy may hold any other levels."""
    voxel_sizes.sort()
    wanted = data.draw(VOXEL_SIZES)
    fetched = f"s{level_to_read(voxel_sizes, wanted)}"
    names = [f"s{i}" for i in range(len(voxel_sizes))]
    for count in range(len(names) + 1):
        for others in itertools.combinations(names, count):
            copy = volume(voxel_sizes, {fetched, *others})
            assert copy.level_for(wanted).path.name == fetched


@given(st.lists(VOXEL_SIZES, min_size=2, max_size=5, unique=True), st.data())
def test_absent_level_is_not_replaced_by_a_coarser_one(voxel_sizes, data):
    voxel_sizes.sort()
    wanted = data.draw(VOXEL_SIZES)
    needed = level_to_read(voxel_sizes, wanted)
    names = [f"s{i}" for i in range(len(voxel_sizes))]
    copy = volume(voxel_sizes, {*names} - {names[needed]})
    try:
        level = copy.level_for(wanted)
    except InputError as error:
        assert f"{names[needed]}: " in str(error)
    else:
        assert np.all(np.array(level.grid.voxel_size) <= np.array(wanted) * (1 + TOLERANCE_VOXELS))
