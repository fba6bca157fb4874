"""Small pictures of test crops."""

import imageio.v3 as imageio
import numpy as np

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.report.figures.preview import PREVIEW_PIXELS, draw_preview
from tests.support.figures import write_label

GRID = Grid((8, 8, 8), (0, 0, 0), (6, 40, 20))


def test_small_labels_are_drawn_over_gray_raw_and_covering_ones_left_out(tmp_path):
    create(tmp_path / "raw", GRID, "uint8").write(
        np.random.default_rng(0).integers(100, 110, GRID.shape).astype(np.uint8)
    ).result()
    mito, cyto = np.zeros(GRID.shape, np.uint8), np.ones(GRID.shape, np.uint8)
    mito[4, 10:20, 5:15] = 1
    for label, values in {"mito": mito, "cyto": cyto}.items():
        write_label(tmp_path, label, values, GRID)
    rows = [CropLabel(5, "d", label, GRID) for label in ("mito", "cyto")]
    draw_preview(Volume.open(tmp_path / "raw"), rows, tmp_path, tmp_path / "a.jpg")
    image = imageio.imread(tmp_path / "a.jpg").astype(int)
    assert image.shape == (PREVIEW_PIXELS, PREVIEW_PIXELS // 2, 3)
    colored = np.ptp(image, axis=-1) > 30
    # Six pixels per voxel; JPEG smears colors over blocks of 16 pixels.
    assert colored[60:120, 30:90].mean() > 0.9
    colored[44:136, 14:106] = False
    assert not colored.any()
