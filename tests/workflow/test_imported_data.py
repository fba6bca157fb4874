"""A run trains on volumes that `cellmap-pipeline import` brought into the layout."""

import subprocess
import sys

import numpy as np
import pytest

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.geometry import Grid
from tests.support.foreign_volumes import write_hdf5, write_sections

pytestmark = pytest.mark.slow
GRID = Grid((8, 8, 8), (0, 0, 0), (64, 104, 104))
CROP = (48, 48, 48)
STARTS = [(0, 0, 0), (8, 56, 0), (16, 0, 56)]


def import_volume(folder, *arguments):
    command = [sys.executable, "-m", "cellmap_pipeline.cli", "import", *map(str, arguments)]
    size = ["--voxel-size", "8", "8", "8"]
    subprocess.run([*command, "data/cell-1", *size], cwd=folder, check=True)


def test_a_training_on_imported_data(new_run):
    run = new_run()
    rng = np.random.default_rng(0)
    ids = np.zeros(GRID.shape, np.uint8)
    ids[8:30, 10:98, 5:99] = ids[40:56, 10:98, 5:99] = 1
    raw = (rng.normal(150, 20, GRID.shape) - 60 * ids).clip(1, 255).astype(np.uint8)
    import_volume(run.folder, write_sections(run.folder / "sections", raw))
    for number, start in enumerate(STARTS, 1):
        box = tuple(slice(a, a + n) for a, n in zip(start, CROP, strict=True))
        path = write_hdf5(run.folder / f"{number}.h5", ids[box])
        position = ["--translation", *GRID.box(start, CROP).translation]
        import_volume(run.folder, path, *position, "--crop", number, "--label", "mito")
    rows = [CropLabel(9, "cell-1", "mito", GRID.box((16, 56, 56), CROP))]
    write_manifest(rows, run.folder / "manifest.csv")
    run.configure(data_root="data", test_crops="manifest.csv", ground_truth=None)
    run.train("tiny", classes=["mito"])
    run.snakemake("check_inputs")
    run.snakemake("results/tiny/model.ckpt")
    assert (run.folder / "results/tiny/model.ckpt").is_file()
