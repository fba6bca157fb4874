"""Averages over symmetries, of channels that depend on directions, too."""

import numpy as np
import pytest
import torch

from cellmap_pipeline.channels import DESCRIPTOR_SUFFIXES
from cellmap_pipeline.config.auxiliary_targets import Affinities, training_channels
from cellmap_pipeline.config.symmetries import SYMMETRIES, missing_offsets, transformed_offset
from cellmap_pipeline.geometry import pair_slices
from cellmap_pipeline.patches.descriptors import write_descriptors
from cellmap_pipeline.patches.targets import FRACTION_ONE, affinity_offset
from cellmap_pipeline.prediction.symmetries import SymmetricAverage, apply_symmetry, undo_symmetry
from tests.support.patches import training

CUBE = (8.0, 8.0, 8.0)
NEAREST = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
ALONG_AXES = [*NEAREST, [3, 0, 0], [0, 3, 0], [0, 0, 3]]
DIAGONAL = [*NEAREST, [0, 2, 2], [0, 2, -2], [2, 0, 2], [2, 0, -2], [2, 2, 0], [2, -2, 0]]


def equivariant_network(channels, voxel_size):
    """Return a network that is equivariant by construction.

    A class depends on the raw of its voxel, an affinity on the raw of both of its voxels, whichever
    is the first one, and where the second one is outside of the window, on the first one alone.
    """

    def predict(batch):
        outputs = []
        for i, channel in enumerate(channels):
            offset = affinity_offset(channel, voxel_size)
            value = torch.sigmoid(batch[:, 0] - i * (offset is None))
            if offset is not None:
                value *= 0.3
                here, there = (tuple(part) for part in pair_slices(batch.shape[2:], offset))
                one, other = batch[:, 0][:, *here], batch[:, 0][:, *there]
                length = float(np.linalg.norm(offset))
                value[:, *here] = torch.sigmoid(one + other - length * (one - other).abs())
            outputs.append(value)
        return torch.stack(outputs, 1)

    return predict


@pytest.mark.parametrize(
    ("offsets", "voxel_size", "n_symmetries"),
    [
        (ALONG_AXES, CUBE, 8),
        (ALONG_AXES, CUBE, 48),
        (DIAGONAL, CUBE, 48),
        ([*NEAREST, [2, 0, 0], [0, 9, 0], [0, 1, 2], [0, 1, -2]], (45.0, 9.2, 9.2), 8),
    ],
)
def test_an_equivariant_network_gives_the_same_with_and_without(offsets, voxel_size, n_symmetries):
    targets = {"cell": ["boundary", Affinities(affinities=offsets)]}
    channels = training_channels(["cell", "mito"], targets, voxel_size)
    batch = torch.randn(2, 1, 11, 11, 11, generator=torch.Generator().manual_seed(0))
    predict = equivariant_network(channels, voxel_size)
    average = SymmetricAverage(channels, n_symmetries, voxel_size)
    total = average.add(None, batch, predict)
    counts = average.counts(total)
    single = predict(batch)
    assert torch.allclose(total / counts, single, atol=1e-6)
    # All symmetries give a value where both voxels of all pairs are in the window.
    assert counts.max() == n_symmetries == counts[channels.index("cell")].min()
    assert counts.min() == n_symmetries / 2
    # A second network is added to the same sums.
    twice = average.add(total.clone(), batch, predict)
    assert torch.allclose(twice / counts / 2, single, atol=1e-6)


def test_an_affinity_at_the_border_has_fewer_values():
    channels = ["cell", "cell_affinity_z", "cell_affinity_y", "cell_affinity_x"]
    average = SymmetricAverage(channels, 8, CUBE)
    counts = average.counts(torch.zeros(1, 4, 3, 3, 3))
    assert counts[0].unique().tolist() == [8]
    assert counts[1, :, 0, 0].tolist() == [4, 8, 8]
    assert counts[3, 0, 0].tolist() == [4, 8, 8]


def test_without_affinities_all_voxels_count_alike():
    assert SymmetricAverage(["cell", "cell_boundary"], 48, CUBE).counts(torch.zeros(1)) == 48


def pairs_at(volume, offset):
    """Return the pairs of values at the distance of an offset."""
    values = [volume[0, 0][part].flatten().tolist() for part in pair_slices((3, 3, 3), offset)]
    return {frozenset(pair) for pair in zip(*values, strict=True)}


@pytest.mark.parametrize("symmetry", SYMMETRIES[48])
def test_offsets_turn_with_the_volume(symmetry):
    volume = torch.arange(27.0).reshape(1, 1, 3, 3, 3)
    turned = apply_symmetry(volume, symmetry)
    assert torch.equal(undo_symmetry(turned, symmetry), volume)
    offset = (1, -1, 0)
    other, _ = transformed_offset(offset, symmetry)
    assert pairs_at(turned, other) == pairs_at(volume, offset)


def test_offsets_that_are_missing():
    nearest = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert not missing_offsets([*nearest, (4, 0, 0)], 8)
    assert missing_offsets([*nearest, (4, 0, 0)], 48) == [(0, 0, 4), (0, 4, 0)]
    assert missing_offsets([*nearest, (0, 2, 1)], 8) == [(0, 2, -1)]


def test_a_training_names_the_offsets_that_symmetries_need():
    targets = {"mito": [{"affinities": [*NEAREST, [0, 2, 1]]}]}
    message = r"symmetries: 8.*add \[0, 2, -1\] \(voxels\) to those of mito"
    with pytest.raises(ValueError, match=message):
        training(classes=["mito"], targets=targets, inference={"symmetries": 8})
    training(classes=["mito"], targets={"mito": ["affinities"]}, inference={"symmetries": 48})


@pytest.mark.parametrize("n_symmetries", [8, 48])
def test_descriptors_are_averaged_as_vector_tensor_and_scalar(n_symmetries):
    """The objects' own descriptors are equivariant: all symmetries give the same."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(1 + rng.integers(0, 3, (3, 3, 3)).repeat(4, 0).repeat(4, 1).repeat(4, 2))
    channels = ["cell", *("cell" + suffix for suffix in DESCRIPTOR_SUFFIXES)]

    def predict(batch):
        made = torch.zeros((1, len(channels), 12, 12, 12))
        out = torch.empty((len(DESCRIPTOR_SUFFIXES), 12, 12, 12), dtype=torch.uint8)
        write_descriptors(batch[0, 0].int().contiguous(), 24.0, CUBE, out)
        made[0, 1:] = out / FRACTION_ONE
        return made

    average = SymmetricAverage(channels, n_symmetries, CUBE)
    batch = ids[None, None].float()
    total = average.add(None, batch, predict)
    assert torch.equal(average.counts(total), torch.full_like(total[0], n_symmetries))
    single = predict(batch)
    assert single.std(dim=(2, 3, 4))[0, 1:].min() > 0.01
    # Stored values are rounded to 1/254.
    assert torch.allclose(total / n_symmetries, single, atol=1.01 / FRACTION_ONE)
