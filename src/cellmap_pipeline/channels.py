"""Output channels of a network: one per class, and auxiliary channels of instance classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cellmap_pipeline.classes import is_instance

BOUNDARY_SUFFIX = "_boundary"
DISTANCE_SUFFIX = "_distance"
AFFINITY_SUFFIXES = ("_affinity_z", "_affinity_y", "_affinity_x")
# Kinds of auxiliary channels, and the suffixes of their names.
AUXILIARY_SUFFIXES = {
    "boundary": (BOUNDARY_SUFFIX,),
    "distance": (DISTANCE_SUFFIX,),
    "affinities": AFFINITY_SUFFIXES,
}


def output_channels(classes: Iterable[str], targets: Mapping[str, Sequence[str]] = {}) -> list[str]:
    """List the output channels of a network for `classes`, in order.

    Each class has a channel of its own name, followed by the auxiliary channels of the kinds that
    `targets` lists for it (keys of `AUXILIARY_SUFFIXES`). An instance class that is not listed has
    `{class}_boundary`, so that touching objects can be separated.
    """
    channels: list[str] = []
    for label in classes:
        channels.append(label)
        for kind in targets.get(label, ["boundary"] if is_instance(label) else []):
            channels += [label + suffix for suffix in AUXILIARY_SUFFIXES[kind]]
    return channels


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
    for suffixes in AUXILIARY_SUFFIXES.values():
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
