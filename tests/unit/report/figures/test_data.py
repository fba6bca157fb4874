"""Pictures of the labeled crops."""

import numpy as np
import pytest

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.report.figures.data import (
    labeled_crops,
    middle_slice,
    plot_data,
    spread_evenly,
)
from tests.support.figures import GRID, write_label


@pytest.fixture
def datasplit(tmp_path):
    """Two crops of one dataset; the second has a label that the first lacks."""
    raw = np.random.default_rng(0).integers(0, 255, GRID.shape).astype(np.uint8)
    create(tmp_path / "raw", GRID, "uint8")[...] = raw
    rows = []
    for number, names in ((1, ["mito"]), (2, ["mito", "pm"])):
        folder = tmp_path / f"a.zarr/crop{number}"
        folder.mkdir(parents=True)
        for name in names:
            write_label(folder, name, np.ones(GRID.shape, np.uint8))
        usage = "train" if number == 1 else "validate"
        rows.append(f'{usage},{tmp_path}/raw,"{folder}/[{",".join(names)}]"\n')
    path = tmp_path / "datasplit.csv"
    path.write_text("".join(rows))
    return path


def test_each_crop_is_drawn_once_with_its_labels(datasplit, tmp_path, drawn):
    plot_data([datasplit, datasplit], (8, 8, 8), tmp_path / "a.jpg")
    (figure,) = drawn
    first, second = figure.axes
    assert [ax.get_title() for ax in (first, second)] == ["a\ncrop 1", "a\ncrop 2 (held out)"]
    assert first.images[0].get_array().shape == (16, 20, 3)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mito", "pm"]


def test_crops_have_the_classes_of_all_data_splits(datasplit, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(datasplit.read_text().replace("mito,pm", "er"))
    first, second = labeled_crops([datasplit, other])
    assert first.classes == ["mito"] and second.classes == ["mito", "pm", "er"]


def test_a_crop_that_some_network_trains_on_is_not_held_out(datasplit, tmp_path):
    other = tmp_path / "other.csv"
    swapped = datasplit.read_text().replace("train,", "t,").replace("validate,", "train,")
    other.write_text(swapped.replace("t,", "validate,"))
    assert [crop.usage for crop in labeled_crops([datasplit])] == ["train", "validate"]
    assert [crop.usage for crop in labeled_crops([datasplit, other])] == ["train", "train"]


def test_evenly_spread_crops_are_drawn_if_there_are_too_many():
    assert spread_evenly(5, 300) == [0, 1, 2, 3, 4]
    assert len(spread_evenly(1000, 300)) == 300 and spread_evenly(1000, 300)[-1] == 999


def test_middle_slice_has_square_pixels():
    plane = middle_slice(Grid((10, 8, 4), (0, 0, 0), (11, 400, 800)), (4, 4, 4))
    assert plane.shape == (1, 160, 160) and plane.voxel_size == (10, 20, 20)
    assert plane.translation[0] == 50
