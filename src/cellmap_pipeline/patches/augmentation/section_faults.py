"""Faults of single sections of raw: missing, shifted in their plane, or blurred.

Labels stay as they are: the network learns to interpolate a missing section, and to find the place
of a shifted one from its neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import torch
from torch import Tensor

from cellmap_pipeline.config.augmentation import Augmentation, Change
from cellmap_pipeline.geometry import SAME_SIZE, Shape, Vector
from cellmap_pipeline.patches.augmentation.filters import gaussian_blur


@dataclass(frozen=True)
class SectionFault:
    """A fault of adjacent sections.

    Attributes
    ----------
    axis
        Axis across the sections.
    first, count
        The first section, and the number of sections.
    shift
        Voxels (z, y, x) by which raw is moved.
    sigmas
        σ (z, y, x) of a Gaussian, voxels.
    is_missing
        Whether the sections are blank.
    """

    axis: int
    first: int
    count: int = 1
    shift: Shape = (0, 0, 0)
    sigmas: Vector = (0.0, 0.0, 0.0)
    is_missing: bool = False


def coarse_axes(voxel_size: Vector) -> list[int]:
    """List the axes across sections: those with the largest voxels, or all if they are alike."""
    return [axis for axis, v in enumerate(voxel_size) if v * SAME_SIZE > max(voxel_size)]


def happens(change: Change, rng: np.random.Generator) -> bool:
    """Draw whether a patch gets a change; nothing is drawn for one that is off."""
    return change.on and rng.random() < change.probability


def draw_faults(
    options: Augmentation, rng: np.random.Generator, patch_size: Shape, voxel_size: Vector
) -> tuple[SectionFault, ...]:
    """Draw the faults of one patch, in the order in which they are applied."""
    axes = coarse_axes(voxel_size)
    faults = []
    if happens(options.shifted_section, rng):
        axis, first = _draw_section(axes, rng, patch_size)
        distance, angle = rng.uniform(*options.shifted_section.range), rng.uniform(0, 2 * pi)
        shift = [round(distance * sin(angle)), round(distance * cos(angle))]
        shift.insert(axis, 0)
        faults.append(SectionFault(axis, first, shift=(shift[0], shift[1], shift[2])))
    if happens(options.blurred_section, rng):
        axis, first = _draw_section(axes, rng, patch_size)
        sigma = rng.uniform(*options.blurred_section.range)
        z, y, x = (0.0 if a == axis else sigma for a in range(3))
        faults.append(SectionFault(axis, first, sigmas=(z, y, x)))
    if happens(options.missing_section, rng):
        axis, first = _draw_section(axes, rng, patch_size)
        low, high = options.missing_section.range
        count = min(int(rng.integers(low, high + 1)), patch_size[axis] - first)
        faults.append(SectionFault(axis, first, count, is_missing=True))
    return tuple(faults)


def apply_fault(raw: Tensor, fault: SectionFault) -> None:
    """Apply a fault to raw (z, y, x) in place; missing sections become 0."""
    section = raw.narrow(fault.axis, fault.first, fault.count)
    if fault.is_missing:
        section.zero_()
        return
    changed = section
    for axis, distance in enumerate(fault.shift):
        if distance:
            # Beyond the edge, the voxels at the edge are repeated.
            source = torch.arange(raw.shape[axis], device=raw.device) - distance
            changed = changed.index_select(axis, source.clamp_(0, raw.shape[axis] - 1))
    if any(fault.sigmas):
        changed = gaussian_blur(changed, fault.sigmas)
    section.copy_(changed)


def _draw_section(axes: list[int], rng: np.random.Generator, patch_size: Shape) -> tuple[int, int]:
    """Draw the axis across the sections, and a section of the patch."""
    axis = axes[rng.integers(len(axes))]
    return axis, int(rng.integers(patch_size[axis]))
