"""Crop labels as JSON-serializable settings."""

from cellmap_pipeline.crop_label import crop_label, row_settings
from tests.support.plans import ROWS


def test_crop_labels_survive_serialization():
    assert [crop_label(row_settings(row)) for row in ROWS] == ROWS
