"""Pictures of test crops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from cellmap_pipeline.classes import style_of
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.report.figures import crops
from cellmap_pipeline.report.figures.crops import (
    OBJECT_COLORS,
    most_labeled_slices,
    overlay_label,
    plot_crop,
    scale_bar,
)
from tests.support.figures import GRID, texts_in, write_label


def test_slices_with_the_most_labeled_voxels_are_chosen(tmp_path):
    values = np.zeros(GRID.shape, np.uint8)
    values[2, 3:9, 4:7] = 1
    values[:, 5, 15] = 1
    assert most_labeled_slices(GRID, [write_label(tmp_path, "pm", values)]) == (2, 5, 15)


def test_central_slices_are_chosen_if_several_have_as_many_labeled_voxels(tmp_path):
    everywhere = np.ones(GRID.shape, np.uint8)
    full, empty = (write_label(tmp_path, f"{n}", n * everywhere) for n in (1, 0))
    assert most_labeled_slices(GRID, [full]) in {(5, 7, 9), (6, 8, 10)}
    assert most_labeled_slices(GRID, [empty]) == (5, 7, 9)


def test_small_and_large_labels_have_equal_weight_in_the_choice_of_slices(tmp_path):
    large, small = np.zeros(GRID.shape, np.uint8), np.zeros(GRID.shape, np.uint16)
    large[:10] = 1
    small[11, 3, 4] = 7
    volumes = [write_label(tmp_path, "nuc", large), write_label(tmp_path, "ves", small)]
    assert most_labeled_slices(GRID, volumes) == (11, 3, 4)


def test_chosen_slices_do_not_depend_on_the_size_of_slabs(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 2, GRID.shape).astype(np.uint8)
    volume = write_label(tmp_path, "pm", values)
    expected = most_labeled_slices(GRID, [volume])
    monkeypatch.setattr(crops, "SLAB_PLANES", 5)
    assert most_labeled_slices(GRID, [volume]) == expected


@given(st.floats(1, 1e7))
def test_scale_bars_have_round_lengths_and_fit(nm):
    length, name = scale_bar(nm)
    assert nm / 3 / 2.5 < length * (1 + 1e-9) and length <= nm / 3 * (1 + 1e-9)
    assert f"{length:.0e}"[0] in "125"
    number, unit = name.split()
    assert float(number) * {"nm": 1, "µm": 1000}[unit] == pytest.approx(length)


def test_scale_bar_of_known_widths():
    assert scale_bar(640) == (200, "200 nm")
    assert scale_bar(12_800) == (2000, "2 µm")


def test_objects_have_different_outlines_and_background_is_unchanged():
    ids = np.zeros((12, 12), np.uint16)
    ids[2:10, 2:6], ids[2:10, 6:10] = 1, 2
    image = np.full((12, 12, 3), 0.5, np.float32)
    overlay_label(image, ids, "mito")
    assert (image[ids == 0] == 0.5).all()
    assert np.allclose(image[4, 5], OBJECT_COLORS[0]) and np.allclose(image[4, 6], OBJECT_COLORS[1])
    inner = image[4, 3]
    assert not np.allclose(inner, 0.5) and not np.allclose(inner, OBJECT_COLORS[0])


def test_semantic_labels_have_the_color_of_their_class_and_different_dashes():
    ids = np.zeros((30, 30), np.uint8)
    ids[3:27, 3:27] = 1
    outlined = []
    for position in range(3):
        image = np.zeros((30, 30, 3), np.float32)
        overlay_label(image, ids, "pm", position)
        outlined.append(int(np.isclose(image, to_rgb(style_of("pm").color)).all(axis=-1).sum()))
    assert outlined[0] == 4 * 24 - 4
    assert all(0.3 < n / outlined[0] < 0.7 for n in outlined[1:])


@pytest.fixture
def crop(tmp_path):
    """Raw, predicted labels (folder `predicted`), and the ground truth of `mito` (`truth`)."""
    rng = np.random.default_rng(0)
    larger = GRID.padded((4, 4, 4))
    create(tmp_path / "raw", larger, "uint8")[...] = rng.integers(0, 255, larger.shape, np.uint8)
    rows = [CropLabel(7, "cell-1", name, GRID) for name in ("pm", "mito", "ne", "er", "ecs")]
    for row in rows:
        values = rng.integers(0, 2 if row.label != "mito" else 9, GRID.shape).astype(np.uint8)
        write_label(tmp_path / "predicted", row.label, values)
    write_label(tmp_path / "truth", "mito", np.ones(GRID.shape, np.uint8))
    return tmp_path, Volume.open(tmp_path / "raw"), rows


def cell_contents(figure):
    """Return the titles of cells with a picture, and the texts of cells without one."""
    cells = [ax for ax in figure.axes if ax.images]
    titles = [(ax.get_title("left"), ax.get_title()) for ax in cells]
    return titles, [text for ax in figure.axes if not ax.images for text in texts_in(ax)]


def test_each_label_is_shown_next_to_its_ground_truth(crop, drawn):
    folder, raw, rows = crop
    plot_crop(raw, rows, folder / "predicted", folder / "truth", folder / "crop.png")
    titles, empty = cell_contents(drawn[0])
    labels = [left for left, title in titles if title == "raw"]
    assert sorted(labels) == ["ecs", "er", "mito", "ne", "pm"] and labels[0] == "mito"
    assert [title for _, title in titles].count("ground truth") == 1
    assert [title for _, title in titles].count("prediction") == 5
    assert empty == ["no ground truth"] * 4


def test_semantic_labels_share_pictures_if_there_is_no_ground_truth(crop, drawn):
    folder, raw, rows = crop
    plot_crop(raw, rows, folder / "predicted", None, folder / "crop.png")
    titles, empty = cell_contents(drawn[0])
    assert [left for left, _ in titles if left] == ["mito", "er, pm, ne", "ecs"]
    assert not empty and "ground truth" not in {title for _, title in titles}
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert legend == ["er", "pm", "ne"]


def test_pictures_have_the_proportions_of_the_crop(crop, drawn):
    folder, raw, rows = crop
    plot_crop(raw, rows[:1], folder / "predicted", None, folder / "crop.png")
    height, width, _ = drawn[0].axes[0].images[0].get_array().shape
    z, y, x = (n * v for n, v in zip(GRID.shape, GRID.voxel_size, strict=True))
    assert (width - crops.GAP_PIXELS) / (height - crops.GAP_PIXELS) == pytest.approx(
        (x + z) / (y + z), rel=0.02
    )


def test_ground_truth_and_prediction_are_drawn_over_gray_raw(crop, drawn):
    folder, raw, rows = crop
    row = next(row for row in rows if row.label == "mito")
    plot_crop(raw, [row], folder / "predicted", folder / "truth", folder / "crop.png")
    plain, truth, predicted = (
        np.asarray(ax.images[0].get_array()) for ax in drawn[0].axes if ax.images
    )
    gray = (plain == plain[..., :1]).all(axis=-1)
    assert gray.all()
    # The ground truth is one object that fills the crop; the white background stays white.
    pale = OBJECT_COLORS[0] * crops.FILL_OPACITY + (1 - crops.FILL_OPACITY) * plain
    inside = plain[..., 0] < 1
    assert np.isclose(truth, pale, atol=0.01).all(axis=-1)[inside].mean() > 0.9
    assert not np.allclose(predicted, truth)
