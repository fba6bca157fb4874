"""Output channels of a network: one per class, and auxiliary channels of instance classes.

An affinity tells whether a voxel p and the voxel p - offset are of one object. The channels of the
three nearest neighbors are named after their axis; a long-range affinity has its offset in nm in
its name, such as `cell_affinity_0_72_0nm`, which therefore holds on any grid. Opposite offsets
stand for the same pairs of voxels, so the first component that is not 0 is positive.

The ten local shape descriptors of a voxel tell the shape of its object around it
(`patches.descriptors`): a vector, a symmetric tensor and a scalar. They are learned because they
help to learn the other channels, and no method uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.geometry import Grid, Vector

BOUNDARY_SUFFIX = "_boundary"
DISTANCE_SUFFIX = "_distance"
AFFINITY_SUFFIXES = ("_affinity_z", "_affinity_y", "_affinity_x")
# In the order of lsd-lite.
DESCRIPTOR_SUFFIXES = (
    "_lsd_offset_z", "_lsd_offset_y", "_lsd_offset_x",
    "_lsd_variance_z", "_lsd_variance_y", "_lsd_variance_x",
    "_lsd_correlation_zy", "_lsd_correlation_zx", "_lsd_correlation_yx",
    "_lsd_size",
)  # fmt: skip
# Kinds of auxiliary channels that methods may need, and the suffixes of their names.
AUXILIARY_SUFFIXES = {
    "boundary": (BOUNDARY_SUFFIX,),
    "distance": (DISTANCE_SUFFIX,),
    "affinities": AFFINITY_SUFFIXES,
}
_LENGTH = r"(-?\d+(?:\.\d+)?)"
_LONG_RANGE_SUFFIX = re.compile(rf"_affinity_{_LENGTH}_{_LENGTH}_{_LENGTH}nm$")


def output_channels(
    classes: Iterable[str], suffixes: Mapping[str, Sequence[str]] = {}
) -> list[str]:
    """List the output channels of a network for `classes`, in order.

    Each class has a channel of its own name, followed by the auxiliary channels whose `suffixes`
    are given for it. An instance class for which none are given has `{class}_boundary`, so that
    touching objects can be separated.
    """
    channels: list[str] = []
    for label in classes:
        default = (BOUNDARY_SUFFIX,) if is_instance(label) else ()
        channels += [label, *(label + suffix for suffix in suffixes.get(label, default))]
    return channels


def long_range_suffix(offset_nm: Vector) -> str:
    """Return the suffix of a long-range affinity's channel."""
    lengths = (f"{v:.3f}".rstrip("0").rstrip(".") for v in offset_nm)
    return f"_affinity_{'_'.join(lengths)}nm"


def long_range_offset_nm(channel: str) -> Vector | None:
    """Return the offset (z, y, x, nm) of a long-range affinity's channel; None for any other."""
    match = _LONG_RANGE_SUFFIX.search(channel)
    if match is None:
        return None
    z, y, x = map(float, match.groups())
    return z, y, x


def sampled_grid(channel: str, source: Grid, grid: Grid) -> Grid:
    """Return where a channel on `source` is to be sampled for the voxels of `grid`.

    The affinity of a voxel and its neighbor tells about the face between them, half a voxel before
    the voxel. Where voxels differ in size, the faces of the two grids lie at different distances
    from the voxels' centers, so the affinities of neighbors are sampled half of the difference of
    the sizes off. All other channels are sampled at the voxels themselves.
    """
    z, y, x = (
        t + (size - own) / 2 * channel.endswith(suffix)
        for t, size, own, suffix in zip(
            grid.translation, source.voxel_size, grid.voxel_size, AFFINITY_SUFFIXES, strict=True
        )
    )
    return replace(grid, translation=(z, y, x))


def is_affinity(channel: str) -> bool:
    """Whether a channel is an affinity, of neighbors or of voxels at a distance."""
    return channel.endswith(AFFINITY_SUFFIXES) or long_range_offset_nm(channel) is not None


def is_descriptor(channel: str) -> bool:
    """Whether a channel is one of the ten local shape descriptors of a class."""
    return channel.endswith(DESCRIPTOR_SUFFIXES)


def is_fraction(channel: str) -> bool:
    """Whether the target of a channel may be any number from 0 to 1: distances, descriptors."""
    return channel.endswith(DISTANCE_SUFFIX) or is_descriptor(channel)


def depends_on_ids(channel: str) -> bool:
    """Whether the target of a channel is made from the object ids of its class."""
    return is_affinity(channel) or is_descriptor(channel)


def network_outputs(channels: Sequence[str], atoms: Sequence[Sequence[str]]) -> list[str]:
    """Name the channels that a network itself returns.

    Without atoms, these are `channels`. Otherwise, they are the atoms and what is in none of them
    (`models.hierarchy.ClassLogits` computes the classes from these), followed by the channels that
    contain no atom.

    Parameters
    ----------
    channels
        Channels as returned by `output_channels`.
    atoms
        Each atom as the list of the classes that contain it (`class_table.find_atoms`).
    """
    if not atoms:
        return list(channels)
    names = ["atom:" + "+".join(sorted(atom)) for atom in atoms]
    return [*names, "atom:none", *independent_channels(channels, atoms)]


def independent_channels(channels: Sequence[str], atoms: Sequence[Sequence[str]]) -> list[str]:
    """List the channels that contain no atom: auxiliary ones, and classes without relations."""
    related = set().union(*atoms)
    return [channel for channel in channels if channel not in related]


def class_of(channel: str) -> str:
    """Return the class that an output channel belongs to."""
    channel = _LONG_RANGE_SUFFIX.sub("", channel)
    for suffixes in (*AUXILIARY_SUFFIXES.values(), DESCRIPTOR_SUFFIXES):
        for suffix in suffixes:
            channel = channel.removesuffix(suffix)
    return channel


def auxiliary_kinds(label: str, channels: Iterable[str]) -> list[str]:
    """List the kinds of auxiliary channels of `label` whose channels are all in `channels`."""
    available = set(channels)
    return [
        kind
        for kind, suffixes in AUXILIARY_SUFFIXES.items()
        if all(label + suffix in available for suffix in suffixes)
    ]
