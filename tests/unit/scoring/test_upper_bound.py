"""The score that perfect labels of some rows could reach."""

import pytest

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.upper_bound import score_upper_bound

JUNE = RULES["2026-06-30"]


def row(crop, label, side):
    return CropLabel(crop, "d", label, Grid((8, 8, 8), (0, 0, 0), (side, side, side)))


def test_upper_bound_is_the_score_of_perfect_labels():
    rows = [row(1, "mito", 4), row(1, "er", 4), row(2, "mito", 4), row(2, "er", 2)]
    assert score_upper_bound(rows, rows, JUNE) == {
        "instance": 1,
        "semantic": 1,
        "overall": 1,
    }
    # Half of the objects: F1 2/3, mean distance 1/2. Of er's voxels, 64 of 72.
    reach = score_upper_bound(rows, rows[:2], JUNE)
    assert reach["instance"] == pytest.approx((2 / 3 / 2) ** 0.5)
    assert reach["semantic"] == pytest.approx(64 / 72)
    assert reach["overall"] == pytest.approx((reach["instance"] * reach["semantic"]) ** 0.5)
    assert score_upper_bound(rows, [rows[0]], JUNE)["overall"] == 0


def test_upper_bound_by_panoptic_quality():
    rows = [row(1, "mito", 4), row(1, "er", 4), row(2, "mito", 4), row(2, "er", 2)]
    # Each of two objects is found in one of two crops: 1 / (1 + 1 / 2).
    reach = score_upper_bound(rows, rows[:2], RULES["pq"])
    assert reach == pytest.approx({"instance": 2 / 3, "semantic": 2 / 3, "overall": 2 / 3})
    # The overall score is a mean, so that a single class is enough for one.
    assert score_upper_bound(rows, [rows[0], rows[2]], RULES["pq"])["overall"] == 0.5
