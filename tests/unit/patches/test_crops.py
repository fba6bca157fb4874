"""Crops of a data split: their extent, raw, and the positions of their classes."""

from dataclasses import replace

import numpy as np
import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.patches.crops import open_crops, open_taught, spread_boxes
from cellmap_pipeline.patches.label_codes import read_targets
from cellmap_pipeline.patches.targets import UNKNOWN
from tests.support.patches import CROP_GRID, RAW_GRID

# Voxels around the crop, and the place of the crop within them.
AROUND, WITHIN = (6, 6, 2), (slice(6, -6), slice(6, -6), slice(2, -2))
ATTRIBUTES = {
    "cellmap": {"annotation": {"annotation_type": {"encoding": {"absent": 0, "unknown": 255}}}}
}


def test_positions_are_voxels_of_the_class(crops):
    found = crops[0].positions("mito")
    assert len(found) == 500
    ids, _ = crops[0].labels["mito"].read(crops[0].grid)
    assert (ids[tuple(found.T)] > 0).all() and set(ids[tuple(found.T)]) == {1, 2}


@pytest.fixture
def taught(crops, tmp_path):
    """The crop with raw around it: a plane of it holds mito and pm, all else neither."""
    around = CROP_GRID.padded(AROUND)
    labels = np.zeros(around.shape, np.uint8)
    labels[2] = 1
    labels[WITHIN] = 255
    for label in ("mito", "pm"):
        folder = tmp_path / f"pseudo/{crops[0].dataset}/crop1/{label}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        create(folder, around, "uint8", ATTRIBUTES).write(labels).result()
    (made,) = open_taught(crops, tmp_path / "pseudo")
    return made


def test_pseudo_labels_are_learned_around_the_ground_truth(crops, taught):
    channels = ["mito", "mito_boundary", "mito_distance", "mito#low", "pm"]
    targets = read_targets(taught, taught.grid, channels, {})
    truth = read_targets(crops[0], taught.grid, channels, {})
    assert (truth[:4][:, *WITHIN] != UNKNOWN).any(axis=(1, 2, 3)).all()
    # The ground truth stays as it is, and pm, which it does not have, is unknown within.
    assert np.array_equal(targets[:, *WITHIN], truth[:, *WITHIN])
    assert (targets[4][WITHIN] == UNKNOWN).all()
    outside = np.ones(taught.grid.shape, bool)
    outside[WITHIN] = False
    expected = np.zeros(taught.grid.shape, np.uint8)
    expected[2] = 1
    for channel, target in zip(channels, targets, strict=True):
        values = expected if channel in ("mito", "pm") else np.full_like(expected, UNKNOWN)
        assert np.array_equal(target[outside], values[outside]), channel


def test_patches_are_centered_at_classes_around_the_ground_truth(taught):
    assert taught.present_classes == ["mito", "pm"] and taught.annotated == ["mito"]
    for label in taught.present_classes:
        assert set(taught.positions(label)[:, 0]) == {2}


def test_crops_without_pseudo_labels_are_not_taught(crops, tmp_path):
    assert open_taught(crops, tmp_path / "pseudo") == []


@pytest.mark.parametrize("voxel_size", [(8, 8, 8), (16, 8, 8)], ids=["stored", "coarser"])
def test_boxes_without_raw_are_filled_from_the_nearest_raw(crops, voxel_size):
    crop = replace(crops[0], voxel_size=voxel_size)
    first, last = crop.grid.index_box(RAW_GRID)
    inside = crop.read_raw(first, (1, 20, 24))
    # Before raw along z, and behind it along all axes.
    assert np.array_equal(
        crop.read_raw((first[0] - 30, *first[1:]), (16, 20, 24)), np.repeat(inside, 16, axis=0)
    )
    assert (crop.read_raw(np.add(last, 20), (16, 16, 16)) == 100).all()


@pytest.mark.parametrize("classes", [["mito", "pm"], ["pm", "mito"]], ids=" before ".join)
def test_a_crop_has_the_extent_of_all_its_labels(crops, tmp_path, classes):
    larger = CROP_GRID.padded((4, 6, 0))
    create(tmp_path / "crop1/pm", larger, "uint8").write(np.uint8(1)).result()
    crop = replace(crops[0], annotated=classes)
    assert crop.grid == larger
    targets = read_targets(crop, crop.grid, ["mito", "pm"], {})
    assert [int((known != UNKNOWN).sum()) for known in targets] == [CROP_GRID.size, larger.size]


def test_boxes_cover_small_arrays_and_are_spread_over_large_ones():
    boxes = spread_boxes((70, 64, 10), 10**6)
    assert [start for start, _ in boxes] == [(0, 0, 0), (64, 0, 0)]
    assert [shape for _, shape in boxes] == [(64, 64, 10), (6, 64, 10)]
    spread = spread_boxes((640, 640, 640), 10 * 64**3)
    assert len(spread) == 10 and spread[0][0] == (0, 0, 0) and spread[-1][0] == (576, 576, 576)


def test_datasplit_row_without_annotated_classes_is_named(crops, tmp_path):
    path = tmp_path / "datasplit.csv"
    path.write_text(
        f"train,{tmp_path}/raw,{tmp_path}/crop1/[mito]\n"
        f"validate,{tmp_path}/raw,{tmp_path}/crop1/[pm]\n"
    )
    with pytest.raises(InputError, match="crop1 has none of pm"):
        open_crops(path, ["mito", "pm"], (8, 8, 8))
