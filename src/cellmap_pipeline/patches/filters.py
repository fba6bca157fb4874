"""Filters of raw (z, y, x) on any device: blur and loss of resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.convutils import gaussian_1d
from monai.networks.layers.simplelayers import separable_filtering
from torch import Tensor
from torch.nn.functional import interpolate

TRUNCATE_SIGMAS = 3


def gaussian_blur(raw: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur by a Gaussian of `sigmas` voxels per axis; voxels at the edge are repeated beyond it."""
    kernels = [_kernel(sigma).to(raw) for sigma in sigmas]
    return separable_filtering(raw[None, None], kernels, mode="replicate")[0, 0]


def reduce_resolution(raw: Tensor, factors: Sequence[float]) -> Tensor:
    """Make raw smaller by `factors` (at most 1) per axis and enlarge it again, both linearly.

    Raw keeps its place and its range.
    """
    shape = [max(1, round(n * factor)) for n, factor in zip(raw.shape, factors, strict=True)]
    small = interpolate(raw[None, None], shape, mode="trilinear", align_corners=False)
    return interpolate(small, raw.shape, mode="trilinear", align_corners=False)[0, 0]


def _kernel(sigma: float) -> Tensor:
    if not sigma:
        return torch.ones(1)
    kernel = gaussian_1d(torch.tensor(sigma), truncated=TRUNCATE_SIGMAS, approx="sampled")
    return kernel / kernel.sum()
