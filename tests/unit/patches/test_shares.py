"""Shares of the channels in patches."""

import numpy as np
import torch

from cellmap_pipeline.channels import DESCRIPTOR_SUFFIXES
from cellmap_pipeline.patches.augmentation.transform import PatchTransform
from cellmap_pipeline.patches.patch import Patch
from cellmap_pipeline.patches.shares import mean_targets

CHANNELS = ["a", "a_distance", "a_affinity_z", "a_affinity_y", "a_affinity_x", "b"]
# Stored channels: a, its distance, the low and high digits of its ids, b.
TABLE = [
    [255, 255, 255, 255, 255],  # 0: nothing is known.
    [0, 0, 0, 0, 1],  # 1: outside of a.
    [1, 4, 7, 0, 255],  # 2: object 7.
    [1, 8, 9, 0, 0],  # 3: object 9.
]


def patch(codes, wide=False):
    codes = np.array(codes, np.uint16 if wide else np.uint8)
    table = torch.tensor(TABLE, dtype=torch.uint8)
    tensor = torch.from_numpy(codes.view(np.int16) if wide else codes)
    return Patch(torch.zeros(codes.shape), tensor, table, PatchTransform())


def test_means_are_over_known_voxels():
    line = [[[0, 1, 2, 2, 3, 3]]]
    a, distance, along_z, along_y, along_x, b = mean_targets(
        [patch(line)], CHANNELS, (1, 1, 6), (8, 8, 8)
    )
    assert a == 4 / 5
    assert distance == (4 + 4 + 8 + 8) / 8 / 5
    assert np.isnan(along_z) and np.isnan(along_y)
    # Of the known neighbors 1|2, 2|2, 2|3 and 3|3, two are of one object.
    assert along_x == 2 / 4
    assert b == 1 / 3


def test_patches_count_by_voxels_and_margins_are_left_out():
    margin = [[[1, 3, 1]]]
    assert mean_targets([patch(margin)], CHANNELS, (1, 1, 1), (8, 8, 8))[0] == 1
    # To enlarge objects, less than a patch is read.
    assert mean_targets([patch(margin)], CHANNELS, (1, 3, 5), (8, 8, 8))[0] == 1 / 3
    both = [patch([[[1, 3]]]), patch([[[3, 0]]], wide=True)]
    assert mean_targets(both, CHANNELS, (1, 1, 2), (8, 8, 8))[0] == 2 / 3


def test_affinities_at_a_distance():
    line = [[[1, 2, 2, 2, 3, 0]]]
    channels = [*CHANNELS, "a_affinity_0_0_16nm"]
    affinity = mean_targets([patch(line)], channels, (1, 1, 6), (8, 8, 8))[-1]
    # Of the known pairs outside|2, 2|2 and 2|3, one is of one object.
    assert affinity == 1 / 3


def test_means_of_descriptors_are_over_objects():
    line = [[[1, 2, 2, 2, 1, 3]]]
    channels = ["a", *("a" + suffix for suffix in DESCRIPTOR_SUFFIXES)]
    a, *descriptors = mean_targets([patch(line)], channels, (1, 1, 6), (8, 8, 8), {"a": 8.0})
    assert a == 4 / 6
    # Objects are symmetric, so offsets are as often negative as positive.
    np.testing.assert_allclose(descriptors[:3], 0.5, atol=0.01)
    variance = descriptors[5]
    np.testing.assert_allclose(descriptors[3:5], 0, atol=0.01)
    assert 0 < variance < 0.5
    nothing = mean_targets([patch([[[0, 1]]])], channels, (1, 1, 2), (8, 8, 8), {"a": 8.0})
    assert np.isnan(nothing[1:]).all()
