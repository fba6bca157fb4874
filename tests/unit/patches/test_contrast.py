"""Raw of inverted contrast is reported where labels tell, and nothing is claimed elsewhere."""

import numpy as np
import pytest

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.raw_statistics import measure_raw
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.patches.contrast import membrane_brightness, warn_of_inverted_contrast
from cellmap_pipeline.patches.crops import CropData

GRID = Grid((8, 8, 8), (0, 0, 0), (32, 32, 32))
CLASSES = ["pm", "cyto"]


@pytest.fixture
def make(tmp_path):
    """Function that stores raw with a membrane of some brightness, and returns its crop."""

    def make(name, membrane, classes=CLASSES):
        folder = tmp_path / name / "crop1"
        folder.mkdir(parents=True)
        masks = {label: np.zeros(GRID.shape, np.uint8) for label in CLASSES}
        masks["pm"][14:17], masks["cyto"][17:] = 1, 1
        for label in classes:
            create(folder / label, GRID, "uint8").write(masks[label]).result()
        raw = np.random.default_rng(0).normal(120, 10, GRID.shape)
        raw[14:17] += membrane
        create(tmp_path / name / "raw", GRID, "uint8").write(raw.astype(np.uint8)).result()
        return CropData(tmp_path / name / "raw", folder, classes, (8, 8, 8))

    return make


def warnings_of(crops):
    volumes = {str(crop.raw_path): measure_raw(Volume.open(crop.raw_path)) for crop in crops}
    return warn_of_inverted_contrast(crops, volumes)


def test_the_volume_that_differs_from_most_is_reported(make, caplog):
    crops = [make("a", -40), make("b", 40), make("c", -30)]
    assert membrane_brightness(crops[0]) == pytest.approx(-40 / 255, abs=0.005)
    (warning,) = warnings_of(crops)
    assert "/b/raw: its membranes are brighter" in warning and "those of 2 volumes" in warning
    assert warning in caplog.messages
    (warning,) = warnings_of([make("d", -40), make("e", 40), make("f", 30)])
    assert "/d/raw: its membranes are darker" in warning


def test_of_two_volumes_the_brighter_membranes_are_reported(make):
    (warning,) = warnings_of([make("a", 40), make("b", -40)])
    assert "/a/raw: its membranes are brighter" in warning


def test_nothing_is_claimed_without_labels_differences_or_other_volumes(make):
    assert warnings_of([make("a", -40), make("b", 40, ["pm"]), make("c", 40, ["cyto"])]) == []
    assert warnings_of([make("d", -40), make("e", 1)]) == []
    assert warnings_of([make("f", 40), make("g", 30)]) == []
    assert warnings_of([]) == []
