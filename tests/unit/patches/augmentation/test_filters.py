import numpy as np
import pytest
import torch
from scipy import ndimage

from cellmap_pipeline.patches.augmentation.filters import gaussian_blur, reduce_resolution


@pytest.mark.parametrize("sigmas", [(0.3,) * 3, (1.0,) * 3, (1.9,) * 3, (0, 1.5, 0.7)], ids=str)
def test_blur_agrees_with_scipy(sigmas):
    raw = np.random.default_rng(0).random((9, 9, 9), np.float32)
    expected = ndimage.gaussian_filter(raw, sigmas, mode="nearest", truncate=3)
    np.testing.assert_allclose(gaussian_blur(torch.from_numpy(raw), sigmas), expected, atol=1e-6)


def test_low_resolution_averages_neighbors():
    raw = torch.rand((6, 8, 8), generator=torch.Generator().manual_seed(0))
    small = raw.reshape(6, 4, 2, 4, 2).mean((2, 4))
    reduced = reduce_resolution(raw, (1, 0.5, 0.5))
    # A voxel is 3/4 the small voxel that it lies in and 1/4 the next one, along each axis.
    along_y = 0.75 * small[:, 1] + 0.25 * small[:, 0]
    expected = 0.75 * along_y[:, 1] + 0.25 * along_y[:, 0]
    torch.testing.assert_close(reduced[:, 2, 2], expected)


@pytest.mark.parametrize("factor", [0.3, 0.5, 0.77, 0.95, 1.0])
def test_low_resolution_keeps_places_and_range(factor):
    ramp = torch.linspace(0, 1, 40)[:, None, None].expand(40, 10, 12)
    reduced = reduce_resolution(ramp, (factor, factor, factor))
    assert reduced.shape == ramp.shape
    inner = slice(6, -6)
    torch.testing.assert_close(reduced[inner], ramp[inner], atol=1e-3, rtol=0)
    assert reduced.min() >= 0 and reduced.max() <= 1
    if factor == 1:
        torch.testing.assert_close(reduced, ramp)
