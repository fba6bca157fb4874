"""Crops of a data split, and the positions of their classes."""

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.patches.crops import open_crops, spread_boxes


def test_positions_are_voxels_of_the_class(crops):
    found = crops[0].positions("mito")
    assert len(found) == 500
    ids, _ = crops[0].labels["mito"].read(crops[0].grid)
    assert (ids[tuple(found.T)] > 0).all() and set(ids[tuple(found.T)]) == {1, 2}


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
