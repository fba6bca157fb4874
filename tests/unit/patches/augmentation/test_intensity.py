import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmap_pipeline.config.augmentation import Augmentation
from cellmap_pipeline.patches.augmentation.intensity import (
    IntensityTransform,
    draw_intensity,
    transform_intensity,
)
from cellmap_pipeline.training.task import SegmentationTask
from tests.support.trainings import settings as training
from tests.support.transforms import CUBE, OFF

PATCH = (6, 6, 6)
CHANGES = [
    "contrast", "brightness", "offset", "gamma", "inverted_gamma", "low_resolution", "blur", "noise"
]  # fmt: skip
# By key, other changes that a number for it sets.
RELATED = {
    "contrast": ["brightness", "offset"],
    "gamma": ["inverted_gamma"],
    "noise": [],
    "blur": [],
}


def alternating():
    """Raw of 0.5 ± 0.1, by sections along z."""
    raw = torch.full(PATCH, 0.5)
    raw[::2] += 0.1
    raw[1::2] -= 0.1
    return raw


def changed(raw, **changes):
    """Raw after the changes of an `IntensityTransform`."""
    result = raw.clone()
    transform_intensity(result, IntensityTransform(**changes))
    return result


def spread(option, measure, patches=200):
    """Range of `measure` over many transforms, with one option, of alternating raw."""
    rng = np.random.default_rng(0)
    numbers = [key for key, value in option.items() if not isinstance(value, dict)]
    related = [other for key in numbers for other in RELATED.get(key, ())]
    options = Augmentation(**{k: v for k, v in OFF.items() if k not in related} | option)
    found = []
    for _ in range(patches):
        raw = alternating()
        transform_intensity(raw, draw_intensity(options, rng, PATCH, CUBE))
        found.append(measure(raw.numpy()))
    return min(found), max(found)


def always(key, low, high):
    return {key: {"probability": 1, "range": [low, high]}}


def test_a_number_for_contrast_changes_range_and_mean_within_its_limit():
    low, high = spread({"contrast": 0.3}, lambda raw: np.ptp(raw) / 0.2)
    assert 0.7 - 1e-5 <= low < 0.75 and 1.25 < high <= 1.3 + 1e-5
    low, high = spread({"contrast": 0.3}, lambda raw: raw.mean() - 0.5)
    assert -0.15 - 1e-5 <= low < -0.13 and 0.13 < high <= 0.15 + 1e-5


def test_a_number_for_gamma_goes_both_ways():
    low, high = spread({"gamma": 0.5}, lambda raw: math.log(raw.max()) / math.log(0.6))
    assert 1 / 1.5 - 1e-5 <= low < 0.7 and 1.45 < high <= 1.5 + 1e-5


def test_a_number_for_noise_is_its_limit_in_units_of_raw():
    low, high = spread({"noise": 0.05}, lambda raw: (raw[::2] - 0.6).std())
    assert low < 0.005 and 0.045 < high < 0.06


def test_a_number_for_blur_smooths_some_patches_and_keeps_the_mean():
    low, high = spread({"blur": 2.0}, lambda raw: (raw[2] - raw[3]).mean())
    assert low < 0.04 and high == pytest.approx(0.2, rel=0.01)
    low, high = spread({"blur": 2.0}, np.mean)
    assert low == pytest.approx(0.5, abs=1e-3) and high == pytest.approx(0.5, abs=1e-3)


def test_contrast_keeps_the_mean():
    low, high = spread(always("contrast", 0.5, 2), lambda raw: np.ptp(raw) / 0.2)
    assert 0.5 - 1e-5 <= low < 0.55 and 1.9 < high <= 2 + 1e-5
    low, high = spread(always("contrast", 0.5, 2), np.mean)
    assert low == pytest.approx(0.5, abs=1e-6) and high == pytest.approx(0.5, abs=1e-6)


def network_input(raw):
    """Raw as the network gets it."""
    task = SegmentationTask(training().model_dump(mode="json"))
    seen = []
    task.network.forward = seen.append
    task(raw[None, None])
    return seen[0][0, 0]


def test_units_are_those_of_the_network_input():
    raw = torch.rand((8, 8, 8), generator=torch.Generator().manual_seed(0)) / 4 + 0.3
    before = network_input(raw)
    torch.testing.assert_close(network_input(changed(raw, offset=0.2)), before + 0.2)
    torch.testing.assert_close(network_input(changed(raw, brightness=1.2)), before * 1.2)
    difference = network_input(changed(raw, noise=0.3, seed=1)) - before
    assert difference.std() == pytest.approx(0.3, rel=0.1)


def test_units_follow_the_normalization():
    raw = torch.rand((8, 8, 8), generator=torch.Generator().manual_seed(0)) / 10 + 0.4
    result = raw.clone()
    transform = IntensityTransform(brightness=0.8, offset=0.5)
    transform_intensity(result, transform, normalization=(0.45, 10.0))
    torch.testing.assert_close((result - 0.45) * 10, (raw - 0.45) * 10 * 0.8 + 0.5)


@given(st.floats(0.5, 2), st.floats(0.5, 2), st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_linear_changes_are_applied_one_after_the_other(contrast, brightness, offset):
    raw = torch.rand(PATCH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = changed(raw, contrast=contrast, brightness=brightness, offset=offset)
    expected = (raw - raw.mean()) * contrast + raw.mean()
    expected = ((expected - 0.5) * 4 * brightness + offset) / 4 + 0.5
    torch.testing.assert_close(result, expected.clamp(0, 1))


@pytest.mark.parametrize("key", ["gamma", "inverted_gamma"])
def test_gamma_keeps_mean_and_deviation_unless_told_otherwise(key):
    raw = torch.rand((8, 8, 8), generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    kept = changed(raw, **{key: 1.5})
    assert kept.mean() == pytest.approx(raw.mean().item(), abs=1e-5)
    assert kept.std() == pytest.approx(raw.std().item(), abs=1e-5)
    assert (kept - raw).abs().max() > 0.005
    plain = changed(raw, **{key: 1.5, f"{key}_keeps_statistics": False})
    expected = raw**1.5 if key == "gamma" else 1 - (1 - raw) ** 1.5
    torch.testing.assert_close(plain, expected)


def test_raw_that_interpolation_has_put_above_1_stays_finite():
    raw = torch.full(PATCH, 0.5)
    raw[0] = 1 + 2e-7
    assert changed(raw, inverted_gamma=0.8).isfinite().all()


def test_gamma_of_a_constant_patch_keeps_it():
    raw = torch.full(PATCH, 0.3)
    torch.testing.assert_close(changed(raw, gamma=1.5, inverted_gamma=0.7), raw)


def test_coarse_axes_are_neither_blurred_nor_reduced():
    options = Augmentation(**OFF | always("blur", 1, 1) | always("low_resolution", 0.5, 0.5))
    drawn = draw_intensity(options, np.random.default_rng(0), PATCH, (40.0, 4.0, 4.0))
    assert drawn.blur == (0, 1, 1) and drawn.resolution == (1, 0.5, 0.5)
    drawn = draw_intensity(options, np.random.default_rng(0), PATCH, (3.48, 4.0, 4.0))
    assert drawn.blur == (1, 1, 1) and drawn.resolution == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("key", CHANGES)
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_a_change_has_its_probability(key, share):
    options = Augmentation(**OFF | {key: {"probability": share}})
    rng = np.random.default_rng(0)
    same = IntensityTransform(seed=0)
    drawn = [draw_intensity(options, rng, PATCH, CUBE) for _ in range(300)]
    field = "resolution" if key == "low_resolution" else key
    affected = [getattr(transform, field) != getattr(same, field) for transform in drawn]
    assert np.mean(affected) == pytest.approx(share, abs=0 if share in (0, 1) else 0.08)
    others = set(CHANGES) - {key, "low_resolution"}
    assert all(getattr(t, other) == getattr(same, other) for t in drawn for other in others)


def test_results_are_clipped():
    raw = torch.rand((8, 8, 8), generator=torch.Generator().manual_seed(0))
    for changes in ({"contrast": 4.0}, {"offset": 4.0}, {"noise": 4.0}, {"gamma": 5.0}):
        result = changed(raw, **changes)
        assert result.min() >= 0 and result.max() <= 1 and result.isfinite().all()
