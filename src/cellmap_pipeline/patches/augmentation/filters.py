"""Filters of raw (z, y, x) on any device: blur and loss of resolution."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import torch
from torch import Tensor
from torch.nn.functional import interpolate

TRUNCATE_SIGMAS = 3


def gaussian_blur(raw: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur by a Gaussian of `sigmas` voxels per axis; voxels at the edge are repeated beyond it."""
    for axis, sigma in enumerate(sigmas):
        if sigma:
            raw = _blur_along(raw, sigma, axis)
    return raw


def reduce_resolution(raw: Tensor, factors: Sequence[float]) -> Tensor:
    """Make raw smaller by `factors` (at most 1) per axis and enlarge it again, both linearly.

    Raw keeps its place and its range.
    """
    shape = [max(1, round(n * factor)) for n, factor in zip(raw.shape, factors, strict=True)]
    small = interpolate(raw[None, None], shape, mode="trilinear", align_corners=False)
    return interpolate(small, raw.shape, mode="trilinear", align_corners=False)[0, 0]


def _blur_along(raw: Tensor, sigma: float, axis: int) -> Tensor:
    # Sums of shifted volumes are faster than convolutions of a single channel.
    radius, n = int(TRUNCATE_SIGMAS * sigma + 0.5), raw.shape[axis]
    weights = [exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    ends = [raw.narrow(axis, i, 1).expand(_resized(raw, axis, radius)) for i in (0, n - 1)]
    padded = torch.cat([ends[0], raw, ends[1]], dim=axis)
    blurred = torch.zeros_like(raw)
    for start, weight in enumerate(weights):
        blurred.add_(padded.narrow(axis, start, n), alpha=weight / sum(weights))
    return blurred


def _resized(raw: Tensor, axis: int, size: int) -> list[int]:
    return [size if i == axis else n for i, n in enumerate(raw.shape)]
