"""Output channels of a network: one per class, and auxiliary ones of instance classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cellmap_pipeline.classes import is_instance

BOUNDARY_SUFFIX = "_boundary"
DISTANCE_SUFFIX = "_distance"
AFFINITY_SUFFIXES = ("_affinity_z", "_affinity_y", "_affinity_x")
# What a network can learn of a class besides where it is: the suffixes of the further channels.
FURTHER = {
    "boundary": (BOUNDARY_SUFFIX,),
    "distance": (DISTANCE_SUFFIX,),
    "affinities": AFFINITY_SUFFIXES,
}


def output_channels(classes: Iterable[str], targets: Mapping[str, Sequence[str]] = {}) -> list[str]:
    """Channels that a network for `classes` puts out, in order.

    Each class has a channel of its own name, and right after it the further ones that `targets`
    lists for it (keys of `FURTHER`). Where it lists nothing, an instance class has
    `{class}_boundary`, so that objects that touch can be told apart.
    """
    channels: list[str] = []
    for label in classes:
        channels.append(label)
        for kind in targets.get(label, ["boundary"] if is_instance(label) else []):
            channels += [label + suffix for suffix in FURTHER[kind]]
    return channels


def class_of(channel: str) -> str:
    """The class that an output channel belongs to."""
    for suffixes in FURTHER.values():
        for suffix in suffixes:
            channel = channel.removesuffix(suffix)
    return channel


def further(label: str, channels: Iterable[str]) -> list[str]:
    """Which keys of `FURTHER` have all their channels of `label` among `channels`."""
    there = set(channels)
    return [kind for kind, suffixes in FURTHER.items() if all(label + s in there for s in suffixes)]
