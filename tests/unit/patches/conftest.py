"""Fixtures of the tests of patches."""

import numpy as np
import pytest

from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.patches.crops import CropData
from tests.support.patches import CROP_GRID, RAW_GRID


@pytest.fixture
def crops(tmp_path):
    """A crop in which raw is 200 inside mitochondria and 100 outside; pm is not annotated."""
    ids = np.zeros(CROP_GRID.shape, np.uint16)
    ids[5:15, 5:15, 5:15] = 1
    ids[25:35, 20:40, 10:40] = 2
    raw = np.full(RAW_GRID.shape, 100, np.uint8)
    raw[10:50, 12:56, 14:62] = np.where(ids > 0, 200, 100)
    create(tmp_path / "raw", RAW_GRID, "uint8", chunk=16).write(raw).result()
    (tmp_path / "crop1").mkdir()
    create(tmp_path / "crop1/mito", CROP_GRID, "uint16").write(ids).result()
    return [CropData(tmp_path / "raw", tmp_path / "crop1", ["mito"], (8, 8, 8))]
