"""Final labels of crops, from one prediction or the mean of several."""

import numpy as np
import pytest

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.segmentation.final_labels import segment_crop
from cellmap_pipeline.segmentation.methods import Method
from cellmap_pipeline.segmentation.probabilities import read_probability

GRID = Grid((8, 8, 8), (100, 0, 0), (24, 24, 24))


def stored(path, values, grid=GRID):
    path.parent.mkdir(parents=True, exist_ok=True)
    create(path, grid, values.dtype.name).write(values).result()
    return path


def made(path):
    (level,) = Volume.open(path).levels
    assert level.grid == GRID
    return level.read((0, 0, 0), GRID.shape)


@pytest.fixture
def probability():
    values = np.zeros(GRID.shape, np.uint8)
    values[4:20, 4:20, 4:20] = 160
    values[8:16, 8:16, 8:16] = 240
    return values


def test_configured_thresholds_override_tuned_ones(tmp_path, probability):
    source = stored(tmp_path / "p/pm", probability)
    row = CropLabel(1, "d", "pm", GRID)
    for tuned, configured, voxels in (
        ({}, {}, 16**3),
        ({"threshold": 0.8}, {}, 8**3),
        ({"threshold": 0.8}, {"threshold": 0.5}, 16**3),
    ):
        segment_crop(row, [[source]], tuned, configured, tmp_path / "s/pm")
        labels = made(tmp_path / "s/pm")
        assert labels.dtype == np.uint8
        assert labels.sum() == voxels


def test_mean_of_several_predictions_is_thresholded(tmp_path, probability):
    sources = [
        stored(tmp_path / "a/pm", probability),
        stored(tmp_path / "b/pm", np.full(GRID.shape, 100, np.uint8)),
    ]
    segment_crop(CropLabel(1, "d", "pm", GRID), [[s] for s in sources], {}, {}, tmp_path / "s/pm")
    assert made(tmp_path / "s/pm").sum() == np.sum((probability.astype(int) + 100) / 2 >= 127.5)


def test_boundary_separates_touching_objects_if_all_predictions_have_it(tmp_path):
    foreground = np.full(GRID.shape, 255, np.uint8)
    boundary = np.zeros(GRID.shape, np.uint8)
    boundary[11:13] = 255
    source = stored(tmp_path / "p/mito", foreground)
    stored(tmp_path / "p/mito_boundary", boundary)
    row = CropLabel(1, "d", "mito", GRID)
    tuned = {"method": "watershed_boundary"}
    segment_crop(row, [[source]], tuned, {}, tmp_path / "s/mito")
    labels = made(tmp_path / "s/mito")
    assert labels.max() == 2
    assert labels[2, 12, 12] != labels[22, 12, 12]
    # If one prediction lacks the boundary, the settings that need it are dropped.
    other = stored(tmp_path / "q/mito", foreground)
    segment_crop(row, [[source], [other]], tuned, {}, tmp_path / "s/mito")
    assert made(tmp_path / "s/mito").max() == 1


def test_external_predictions_on_another_grid_are_resampled(tmp_path):
    coarse = GRID.at((16, 16, 16))
    values = np.zeros(coarse.shape, np.float32)
    values[:6] = 1.0
    source = stored(tmp_path / "nn/pm", values, coarse)
    read = read_probability(source, GRID)
    assert read.dtype == np.uint8
    assert (read[:11] == 255).all() and (read[13:] == 0).all()
    # The crop may also be a part of the prediction.
    inside = GRID.box((4, 4, 4), (8, 8, 8))
    assert np.array_equal(read_probability(source, inside), read[4:12, 4:12, 4:12])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_an_error(tmp_path, value):
    values = np.zeros(GRID.shape, np.float32)
    values[20, 3, 5] = value
    source = stored(tmp_path / "nn/pm", values)
    assert not read_probability(source, GRID.box((0, 0, 0), (8, 8, 8))).any()
    with pytest.raises(InputError, match=r"pm/s0 contains NaN or infinity: replace it"):
        read_probability(source, GRID)


def test_probabilities_of_parts_add_up_to_the_label(tmp_path):
    parts = []
    for i, name in enumerate(("mito_mem", "mito_lum", "mito_ribo")):
        values = np.zeros(GRID.shape, np.uint8)
        values[4 + 4 * i : 12 + 4 * i] = 100  # overlapping parts add up
        parts.append(stored(tmp_path / "p" / name, values))
    stored(tmp_path / "p/mito_mem_boundary", np.full(GRID.shape, 255, np.uint8))
    row = CropLabel(1, "d", "mito", GRID)
    segment_crop(row, [parts], {}, {"threshold": 0.7}, tmp_path / "s/mito")
    assert sorted(np.flatnonzero(made(tmp_path / "s/mito").any(axis=(1, 2)))) == [*range(8, 16)]


@pytest.mark.parametrize("max_voxels_in_memory", [24**3, 1000], ids=["in memory", "in blocks"])
@pytest.mark.parametrize("label", ["pm", "mito"])
def test_empty_label_is_reported_unless_all_probabilities_are_zero(
    tmp_path, monkeypatch, caplog, probability, max_voxels_in_memory, label
):
    monkeypatch.setattr(Method, "max_voxels_in_memory", max_voxels_in_memory)
    row = CropLabel(3, "d", label, GRID)
    for values, threshold, warnings in (
        (probability, 0.95, 1), (probability, 0.94, 0), (np.zeros_like(probability), 0.5, 0)
    ):  # fmt: skip
        source = stored(tmp_path / "p" / label, values)
        caplog.clear()
        segment_crop(row, [[source]], {}, {"threshold": threshold}, tmp_path / "s" / label)
        assert made(tmp_path / "s" / label).any() == (threshold == 0.94)
        assert len(caplog.messages) == warnings
        if warnings:
            assert caplog.messages[0].startswith(
                f"d/crop3: {label} is empty: its largest probability is 0.941, the threshold 0.95"
            )


def test_blocks_of_a_large_crop_give_the_same_labels(tmp_path, monkeypatch, probability):
    source = stored(tmp_path / "p/mito", probability)
    row = CropLabel(1, "d", "mito", GRID)
    segment_crop(row, [[source]], {}, {}, tmp_path / "whole/mito")
    monkeypatch.setattr(Method, "max_voxels_in_memory", 1000)
    segment_crop(row, [[source]], {}, {}, tmp_path / "blocks/mito")
    assert np.array_equal(made(tmp_path / "whole/mito"), made(tmp_path / "blocks/mito"))
