"""Patches with known values, and augmentation with single changes."""

import math

import numpy as np
import torch
from scipy import ndimage

from cellmap_pipeline.patches.augmentation.transform import draw_transform, transform_patch

CUBE = (8.0, 8.0, 8.0)
UNCHANGED_RAW = dict.fromkeys(
    [
        "scaling", "contrast", "brightness", "offset", "gamma", "inverted_gamma", "low_resolution",
        "blur", "noise",
    ],
    0,
)  # fmt: skip
OFF = {"flip": False, "transpose": False, "rotate90": False} | UNCHANGED_RAW


def numbered(shape):
    """Raw whose voxels all differ, and codes that number them."""
    codes = torch.arange(1, math.prod(shape) + 1, dtype=torch.int32).reshape(shape)
    return codes.float() / (math.prod(shape) + 1), codes


def blobs(shape, seed=0):
    """Smooth raw, and codes that follow it."""
    noise = np.random.default_rng(seed).random(shape)
    raw = ndimage.gaussian_filter(noise, 3)
    raw = torch.from_numpy(((raw - raw.min()) / np.ptp(raw)).astype(np.float32))
    return raw, (raw * 1000).round().int() + 1


def transformed(transform, raw, codes, patch, voxel):
    """Raw and codes after a transform."""
    out = torch.empty(patch)
    return out, transform_patch(raw, codes, transform, patch, voxel, out)


def augment(raw, codes, options, rng, patch, voxel):
    """Raw and codes after a transform that is drawn."""
    return transformed(draw_transform(options, rng, patch, voxel), raw, codes, patch, voxel)
