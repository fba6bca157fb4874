"""Random changes of a patch's raw that leave its labels as they are.

Raw is in 0..1 before, between and after the changes. Strengths are in units of the normalized raw,
`(raw - center) * scale`, which the network gets: with a scale of 4, noise of σ 0.08 is 0.02 of
raw's range.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import numpy as np
import torch
from torch import Tensor

from cellmap_pipeline.config.augmentation import NORMALIZATION, Augmentation, Change
from cellmap_pipeline.geometry import Shape, Vector
from cellmap_pipeline.patches.augmentation.filters import gaussian_blur, reduce_resolution
from cellmap_pipeline.patches.augmentation.section_faults import (
    SectionFault,
    apply_fault,
    coarse_axes,
    draw_faults,
    happens,
)

# Standard deviation of raw in 0..1 below which a patch counts as constant.
MIN_DEVIATION = 1e-6


@dataclass(frozen=True)
class IntensityTransform:
    """The changes of one patch's raw; they are applied in the order of the attributes.

    Attributes
    ----------
    contrast
        Contrast factor around the patch's mean.
    brightness
        Factor of the normalized raw.
    offset
        Added to the normalized raw.
    gamma
        Exponent of raw.
    gamma_keeps_statistics
        Whether the patch keeps its mean and standard deviation.
    inverted_gamma
        Exponent of 1 - raw.
    inverted_gamma_keeps_statistics
        The same for the inverted gamma.
    resolution
        Factors (z, y, x) of the resolution.
    blur
        σ (z, y, x) of a Gaussian, in voxels.
    noise
        σ of added Gaussian noise, in units of the normalized raw.
    seed
        Seed of the noise.
    faults
        Faults of sections.
    """

    contrast: float = 1.0
    brightness: float = 1.0
    offset: float = 0.0
    gamma: float = 1.0
    gamma_keeps_statistics: bool = True
    inverted_gamma: float = 1.0
    inverted_gamma_keeps_statistics: bool = True
    resolution: Vector = (1.0, 1.0, 1.0)
    blur: Vector = (0.0, 0.0, 0.0)
    noise: float = 0.0
    seed: int = 0
    faults: tuple[SectionFault, ...] = ()


def draw_intensity(
    options: Augmentation, rng: np.random.Generator, patch_size: Shape, voxel_size: Vector
) -> IntensityTransform:
    """Draw the changes of one patch's raw; `rng` is the only source of randomness."""
    return IntensityTransform(
        contrast=draw_strength(options.contrast, rng),
        brightness=draw_strength(options.brightness, rng),
        offset=draw_strength(options.offset, rng),
        gamma=draw_factor(options.gamma, rng),
        gamma_keeps_statistics=options.gamma.keep_statistics,
        inverted_gamma=draw_factor(options.inverted_gamma, rng),
        inverted_gamma_keeps_statistics=options.inverted_gamma.keep_statistics,
        resolution=_in_plane(options.low_resolution, rng, voxel_size),
        blur=_in_plane(options.blur, rng, voxel_size),
        noise=draw_strength(options.noise, rng),
        seed=int(rng.integers(2**63)),
        faults=draw_faults(options, rng, patch_size, voxel_size),
    )


def draw_strength(change: Change, rng: np.random.Generator) -> float:
    """Draw the strength of a change, evenly from its range; neutral for patches without it."""
    return float(rng.uniform(*change.range)) if happens(change, rng) else change.neutral


def draw_factor(change: Change, rng: np.random.Generator) -> float:
    """Draw like `draw_strength`, but evenly by the logarithm: 1/2 is as likely as 2."""
    if not happens(change, rng):
        return change.neutral
    low, high = change.range
    return exp(rng.uniform(log(low), log(high)))


def transform_intensity(
    raw: Tensor,
    transform: IntensityTransform,
    normalization: tuple[float, float] = NORMALIZATION,
) -> None:
    """Change raw in place.

    Parameters
    ----------
    raw
        (z, y, x) float, 0..1. Results are clipped to this range.
    transform
        The changes.
    normalization
        Center and scale of the normalized raw, `(raw - center) * scale`.
    """
    center, scale = normalization
    _change_linearly(raw, transform, center, scale)
    if transform.gamma != 1:
        _apply_power(raw, transform.gamma, transform.gamma_keeps_statistics)
    if transform.inverted_gamma != 1:
        # Interpolation may exceed 1 by rounding, and a negative number has no power.
        raw.neg_().add_(1).clamp_(min=0)
        _apply_power(raw, transform.inverted_gamma, transform.inverted_gamma_keeps_statistics)
        raw.neg_().add_(1)
    if any(factor != 1 for factor in transform.resolution):
        raw.copy_(reduce_resolution(raw, transform.resolution))
    if any(transform.blur):
        raw.copy_(gaussian_blur(raw, transform.blur))
    if transform.noise:
        generator = torch.Generator(raw.device).manual_seed(transform.seed)
        noise = torch.randn(raw.shape, generator=generator, device=raw.device)
        raw.add_(noise, alpha=transform.noise / scale).clamp_(0, 1)
    for fault in transform.faults:
        apply_fault(raw, fault)


def _change_linearly(
    raw: Tensor, transform: IntensityTransform, center: float, scale: float
) -> None:
    """Apply contrast, brightness and offset, which are one linear function."""
    contrast, brightness = transform.contrast, transform.brightness
    if contrast == 1 and brightness == 1 and not transform.offset:
        return
    shift: float | Tensor = (1 - brightness) * center + transform.offset / scale
    if contrast != 1:
        shift = raw.mean() * ((1 - contrast) * brightness) + shift
    raw.mul_(contrast * brightness).add_(shift).clamp_(0, 1)


def _apply_power(raw: Tensor, exponent: float, keeps_statistics: bool) -> None:
    if not keeps_statistics:
        raw.pow_(exponent)
        return
    mean = raw.mean()
    deviation = _root_mean_square(raw - mean)
    raw.pow_(exponent)
    raw.sub_(raw.mean())
    raw.mul_(deviation / _root_mean_square(raw).clamp(min=MIN_DEVIATION))
    raw.add_(mean).clamp_(0, 1)


def _root_mean_square(values: Tensor) -> Tensor:
    # On a CPU, this is several times as fast as Torch's standard deviation.
    return torch.linalg.vector_norm(values) / values.numel() ** 0.5


def _in_plane(change: Change, rng: np.random.Generator, voxel_size: Vector) -> Vector:
    """Draw a strength for all axes, but neutral along a coarse one, where sections do not mix."""
    strength = draw_strength(change, rng)
    coarse = coarse_axes(voxel_size)
    z, y, x = (
        change.neutral if axis in coarse and len(coarse) < 3 else strength for axis in range(3)
    )
    return z, y, x
