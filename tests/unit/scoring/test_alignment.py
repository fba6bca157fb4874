"""Placement of arrays on a crop's grid."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.scoring import alignment, slabs
from cellmap_pipeline.scoring.alignment import (
    align,
    aligned_view,
    matches_grid,
    safe_translation,
    submitted_grid,
)
from cellmap_pipeline.scoring.instances import score_instance
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.semantic import score_semantic
from tests.support.drawn_volumes import draw_submitted, write_array

# Results of the official evaluator (2026-06-30) for `draw_submitted` of each seed.
DRAWN = json.loads((Path(__file__).parent / "reference" / "drawn_alignments.json").read_text())
TARGET = Grid((8, 8, 8), (800, 160, 320), (6, 7, 8))


def test_equals_the_official_evaluator_on_the_golden_cases(shared: Path) -> None:
    volumes = np.load(shared / "golden" / "resampling_cases.npz")
    cases = json.loads((shared / "golden" / "resampling_expected.json").read_text())
    assert len(cases) == 12
    for name, case in cases.items():
        target = Grid(case["target_voxel_size"], case["target_translation"], case["target_shape"])
        instance = is_instance(case["label"])
        aligned = align(
            volumes[f"{name}/source"], case["voxel_size"], case["translation"], target, instance
        )
        expected = volumes[f"{name}/aligned"]
        assert aligned.dtype == expected.dtype, name
        np.testing.assert_array_equal(aligned, expected, err_msg=name)
        if instance:
            score = score_instance(aligned, aligned, target.voxel_size, RULES["2026-06-30"])
        else:
            score = score_semantic(aligned, aligned, RULES["2026-06-30"])
        assert score == case["score"], name


def test_equals_the_official_evaluator_on_arrays_of_other_grids(tmp_path: Path) -> None:
    for seed, expected in enumerate(DRAWN):
        voxels, attributes, stored, label, target = draw_submitted(seed)
        write_array(tmp_path / str(seed), voxels, attributes, stored)
        array = zarr.open(str(tmp_path / str(seed)), mode="r")
        placed = align(array, *submitted_grid(attributes), target, is_instance(label))
        assert (placed.dtype.str, list(placed.shape)) == (expected["dtype"], expected["shape"])
        assert np.count_nonzero(placed) == expected["nonzero"], seed
        assert zlib.crc32(np.ascontiguousarray(placed).tobytes()) == expected["crc"], seed


def test_boxes_of_the_view_equal_the_array() -> None:
    array = np.arange(1, 10 * 9 * 8 + 1).reshape(10, 9, 8)
    for voxel_size, translation in (
        (TARGET.voxel_size, (784, 176, 312)), (None, (816, 160, 320)), (None, None),
    ):  # fmt: skip
        whole = align(array, voxel_size, translation, TARGET, True)
        volume = aligned_view(array, voxel_size, translation, TARGET, True)
        assert (volume.shape, volume.dtype) == (whole.shape, whole.dtype)
        box = slice(1, 5), slice(2, 7), slice(0, 8)
        np.testing.assert_array_equal(volume[box], whole[box])


def test_masks_upsampled_to_many_voxels_are_interpolated_in_slabs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 200)
    for dtype in ("u1", "bool", "f4", "f8"):
        for size in ((16, 16, 16), (13.92, 16, 8), (9, 24, 11)):
            mask = (rng.random((5, 6, 4)) * 2).astype(dtype)
            target = Grid((8, 8, 8), (0, 0, 0), (9, 12, 8))
            whole = align(mask, size, (0, 0, 0), target, False)
            with monkeypatch.context() as patch:
                patch.setattr(alignment, "MAX_UPSAMPLED_VOXELS", 0)
                np.testing.assert_array_equal(align(mask, size, (0, 0, 0), target, False), whole)


@given(
    voxel_size=st.tuples(*[st.sampled_from([1.74, 2, 3.48, 4, 5.24, 8, 13.92, 16])] * 3),
    first=st.tuples(*[st.integers(-20_000, 20_000)] * 3),
)
def test_safe_translation_is_placed_correctly(
    voxel_size: tuple[float, ...], first: tuple[int, ...]
) -> None:
    """Try multiples of the voxel size, where the evaluator's floor division has rounding errors."""
    origin = tuple(round(i * v, 2) for i, v in zip(first, voxel_size, strict=True))
    grid = Grid(voxel_size, origin, (2, 2, 2))
    written = safe_translation(grid)
    assert matches_grid({"voxel_size": voxel_size, "translation": written}, grid) == (True, True)
    assert np.allclose(written, origin, rtol=0, atol=2e-5)
    array = np.arange(1, 9).reshape(2, 2, 2)
    np.testing.assert_array_equal(align(array, voxel_size, written, grid, True), array)


def test_exact_translation_can_be_placed_a_voxel_off() -> None:
    grid = Grid((3.48, 4, 4), (20.88, 0, 0), (4, 1, 1))
    array = np.arange(1, 5).reshape(4, 1, 1)
    placed = align(array, grid.voxel_size, grid.translation, grid, True)
    assert placed.ravel().tolist() == [2, 3, 4, 0]
    assert matches_grid({"voxel_size": [3.48, 4, 4], "translation": [20.88, 0, 0]}, grid) == (
        True, False,
    )  # fmt: skip
    assert safe_translation(grid) == (20.88 + 3.48e-6, 0, 0)


def test_same_grid_is_left_alone() -> None:
    array = np.random.default_rng(0).random(TARGET.shape)
    placed = align(array, TARGET.voxel_size, TARGET.translation, TARGET, False)
    np.testing.assert_array_equal(placed, array)


@pytest.mark.parametrize(
    ("shift", "voxels"), [(16, 2), (15.9, 1), (3, 0), (-8, -1), (-1, -1), (-9, -2)]
)
def test_translation_is_floored_to_whole_voxels(shift: float, voxels: int) -> None:
    array = np.ones((1, 1, 8), np.uint8)
    translation = (800, 160, 320 + shift)
    placed = align(array, TARGET.voxel_size, translation, TARGET, True)
    expected = np.zeros(TARGET.shape, np.uint8)
    expected[0, 0, max(0, voxels) : 8 + min(0, voxels)] = 1
    np.testing.assert_array_equal(placed, expected)


def test_array_outside_the_crop_gives_background() -> None:
    array = np.ones(TARGET.shape, np.uint8)
    for x in (-5000, 5000):
        placed = align(array, TARGET.voxel_size, (800, 160, x), TARGET, True)
        assert placed.shape == TARGET.shape
        assert not placed.any()


def test_ids_are_resampled_by_nearest_neighbor_and_masks_thresholded() -> None:
    fine = np.zeros((12, 14, 16), np.uint16)
    fine[:, :, 8:] = 700
    ids = align(fine, (4, 4, 4), TARGET.translation, TARGET, True)
    assert ids.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(ids[1:-1, 1:-1, :4]), [0])
    np.testing.assert_array_equal(np.unique(ids[1:-1, 1:-1, 5:-1]), [700])
    inside = align((fine > 0).astype(np.uint8), (4, 4, 4), TARGET.translation, TARGET, False)
    assert inside.dtype == bool
    assert not inside[:, :, :3].any()
    assert inside[1:-1, 1:-1, 5:-1].all()


def test_array_without_voxel_size_is_centered() -> None:
    array = np.arange(1, 9, dtype=np.uint8).reshape(2, 2, 2)
    placed = align(array, None, None, TARGET, True)
    expected = np.zeros(TARGET.shape, np.uint8)
    expected[2:4, 2:4, 3:5] = array
    np.testing.assert_array_equal(placed, expected)
    larger = np.arange(10 * 9 * 8).reshape(10, 9, 8)
    np.testing.assert_array_equal(align(larger, None, None, TARGET, True), larger[2:8, 1:8])


def test_large_arrays_are_resampled_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Grid((8, 8, 8), (0, 0, 0), (10, 10, 10))
    fine = np.random.default_rng(1).integers(0, 99, (20, 20, 20)).astype(np.uint16)
    whole = align(fine, (4, 4, 4), (0, 0, 0), target, True)
    monkeypatch.setattr(alignment, "MAX_UNSPLIT_BYTES", 1000)
    monkeypatch.setattr(alignment, "BLOCK_SIDE", 8)
    np.testing.assert_array_equal(align(fine, (4, 4, 4), (0, 0, 0), target, True), whole)
    # A large array without a voxel size is assumed to fill the crop.
    np.testing.assert_array_equal(align(fine, None, (0, 0, 0), target, True), whole)
    # Each block of a semantic label is interpolated with background outside the block, which leaves
    # seams.
    solid = align(np.ones((20, 20, 20), np.uint8), (4, 4, 4), (0, 0, 0), target, False)
    assert solid.dtype == bool
    assert solid[1:3, 1:3, 1:3].all()


def test_arrays_at_which_the_evaluator_stops() -> None:
    with pytest.raises(ValueError, match="the evaluator stops above 4096"):
        align(
            np.zeros((10, 70, 70), np.uint8),
            (1, 1, 1),
            None,
            Grid((8,) * 3, (0,) * 3, (2, 2, 2)),
            True,
        )
    with pytest.raises(ValueError, match="three axes"):
        align(np.zeros((1, 6, 7, 8), np.uint8), None, None, TARGET, True)
    array = np.zeros(TARGET.shape, np.uint8)
    for voxel_size, message in (
        ((0, 8, 8), "above 0 on each axis"), ((np.nan, 8, 8), "finite number"),
        ((8e3, 8e3, 8e3), "billion voxels"), ((8, 8), "could not be broadcast"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            align(array, voxel_size, None, TARGET, True)
    for translation in ((0, np.inf, 0), (0, np.nan, 0), (1, 2)):
        with pytest.raises(
            ValueError, match=r"must be a position|could not be broadcast|finite number"
        ):
            align(array, TARGET.voxel_size, translation, TARGET, True)
    with pytest.raises(ValueError, match="cannot be resampled"):
        align(np.zeros((0, 4, 4)), (4, 4, 4), None, TARGET, True)
