"""Normalization of raw by the statistics of its volume, in training and in prediction."""

import numpy as np
import pytest
import torch

from cellmap_pipeline.config.augmentation import NORMALIZATION
from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.raw_statistics import RawStatistics, measure_raw
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.normalization import BY_RANGE, normalization_of
from cellmap_pipeline.prediction.predict import predict_crop
from tests.support.networks import tiny_task
from tests.support.patches import CROP_GRID, RAW_GRID, Patches, training
from tests.support.transforms import UNCHANGED_RAW

MODES = ("zscore", "percentile")
ALL_CHANGES = {name: {"probability": 1} for name in (*UNCHANGED_RAW, "rotate")}
# Raw of the whole range of its type, and two copies of it that use 4 % of it.
COPIES = {"whole": (0.0, 1.0), "dark": (0.0, 0.04), "gray": (0.5, 0.54)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A labeled crop, and the copies of its raw in each type."""
    folder = tmp_path_factory.mktemp("copies")
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.15, RAW_GRID.shape).clip(0.05, 1)
    for name, (low, high) in COPIES.items():
        raw = low + (high - low) * values
        for dtype, white in (("float32", 1), ("uint16", 65535), ("uint8", 255)):
            voxels = raw * white if white == 1 else np.rint(raw * white)
            array = create(folder / f"{name}-{dtype}", RAW_GRID, dtype, chunk=16)
            array.write(voxels.astype(dtype)).result()
    ids = np.zeros(CROP_GRID.shape, np.uint8)
    ids[5:30, 5:30, 5:30] = 1
    (folder / "crop1").mkdir()
    create(folder / "crop1/mito", CROP_GRID, "uint8").write(ids).result()
    return folder


def inputs(folder, copy, mode, **changes):
    """What the network gets of the first training patches."""
    raw = folder / copy
    statistics = measure_raw(Volume.open(raw))
    made = training(classes=["mito"], normalize=mode, **changes)
    crops = [CropData(raw, folder / "crop1", ["mito"], made.voxel_size, mode, statistics)]
    patches = Patches(crops, made)
    return torch.stack([(patches[i][0] - 0.5) * 4 for i in range(4)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("augment", [UNCHANGED_RAW, ALL_CHANGES], ids=["plain", "augmented"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-3), ("uint16", 0.01), ("uint8", 0.7)]
)
def test_raw_of_low_contrast_trains_as_raw_of_the_whole_range(
    folder, mode, augment, dtype, tolerance
):
    whole = inputs(folder, f"whole-{dtype}", mode, augment=augment)
    for copy in ("dark", "gray"):
        found = inputs(folder, f"{copy}-{dtype}", mode, augment=augment)
        difference = (found - whole).abs()
        assert difference.max() < tolerance and difference.mean() < tolerance / 2


@pytest.mark.parametrize("voxel_size", [8, 6], ids=["stored", "interpolated"])
def test_inputs_have_the_scale_of_their_mode(folder, voxel_size):
    changes = {"voxel_size": voxel_size}
    zscore = inputs(folder, "gray-uint8", "zscore", **changes)
    low, high = np.percentile(inputs(folder, "gray-uint8", "percentile", **changes), [0.5, 99.5])
    if voxel_size == 8:
        assert abs(zscore.mean()) < 0.02 and abs(zscore.std() - 1) < 0.02
        assert abs(low + 2) < 0.25 and abs(high - 2) < 0.25
    else:
        # Interpolated raw is not rounded to the ten values of its type that occur.
        assert len(zscore.unique()) > 1000
    by_range = inputs(folder, "gray-uint8", "range", **changes)
    assert by_range.std() < 0.03 and by_range.min() >= 0


def test_values_far_outside_the_percentiles_are_clipped(folder):
    statistics = {"s0": RawStatistics(0.5, 0.01, 0.48, 0.52, 0.2, 1.0, 9)}
    normalization = normalization_of("zscore", _open(folder), (8, 8, 8), statistics)
    raw = np.array([0.2, 0.475, 0.48, 0.5, 0.51, 0.525, 1], np.float32)
    expected = [-2.5, -2.5, -2, 0, 1, 2.5, 2.5]
    assert normalization.standardize(raw).dtype == np.float32
    assert (normalization.standardize(raw) - 0.5) * 4 == pytest.approx(expected, abs=1e-4)
    window = torch.from_numpy(raw.copy())
    normalization.to_window(window)
    assert window.tolist() == pytest.approx([0, 0, 0.1, 0.5, 0.7, 1, 1], abs=1e-5)
    center, scale = normalization.window_to_input
    assert ((window - center) * scale).numpy() == pytest.approx(expected, abs=1e-4)
    normalization.standardize_window(window)
    assert window.numpy() == pytest.approx(normalization.standardize(raw), abs=1e-5)


def test_range_changes_nothing_and_needs_no_statistics(folder):
    assert BY_RANGE.window_to_input == NORMALIZATION
    assert normalization_of("range", _open(folder), (8, 8, 8), None) is BY_RANGE
    raw = np.random.default_rng(0).random(9).astype(np.float32)
    values = torch.from_numpy(raw.copy())
    BY_RANGE.to_window(values)
    BY_RANGE.standardize_window(values)
    assert np.array_equal(values, raw) and BY_RANGE.standardize(raw) is raw


@pytest.mark.parametrize("mode", MODES)
def test_raw_of_low_contrast_is_predicted_as_raw_of_the_whole_range(folder, tmp_path, mode):
    torch.manual_seed(0)
    task = tiny_task(normalize=mode)
    with torch.no_grad():  # Move probabilities away from 0.5.
        for parameter in task.parameters():
            parameter.mul_(2)
    found = {}
    for name in COPIES:
        raw = Volume.open(folder / f"{name}-float32")
        rows = [CropLabel(1, "d", "pm", CROP_GRID)]
        predict_crop(
            [task], raw, rows, tmp_path / name, Inference(), statistics=measure_raw(raw)
        )  # fmt: skip
        level = Volume.open(tmp_path / name / "pm").levels[0]
        found[name] = level.array.read(order="C").result().astype(int)
    assert found["whole"].std() > 2
    assert all(np.abs(found[name] - found["whole"]).max() <= 1 for name in COPIES)


def test_missing_statistics_and_raw_without_contrast_are_named(folder, tmp_path):
    raw = _open(folder)
    with pytest.raises(InputError, match="needs the statistics of .*s0.*forcerun raw_statistics"):
        normalization_of("zscore", raw, (8, 8, 8), {"s1": measure_raw(raw)["s0"]})
    flat = {"s0": RawStatistics(0.5, 0.1, 0.5, 0.5, 0, 1, 9)}
    with pytest.raises(InputError, match="99% of its voxels are 0.5 .* shows nothing"):
        normalization_of("percentile", raw, (8, 8, 8), flat)
    with pytest.raises(InputError, match="needs the statistics"):
        predict_crop(
            [tiny_task(normalize="zscore")], raw, [CropLabel(1, "d", "pm", CROP_GRID)],
            tmp_path / "c", Inference(),
        )  # fmt: skip


def _open(folder):
    return Volume.open(folder / "whole-uint8")
