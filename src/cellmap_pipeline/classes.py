"""Names of the challenge's classes that are scored as instances."""

from collections.abc import Iterable

# The official evaluator's list (cellmap-segmentation-challenge, config.INSTANCE_CLASSES).
INSTANCE_CLASSES: frozenset[str] = frozenset(
    {"nuc", "vim", "ves", "endo", "lyso", "ld", "perox", "mito", "np", "mt", "cell", "instance"}
)

BOUNDARY_SUFFIX = "_boundary"


def is_instance(label: str) -> bool:
    """Whether the evaluator matches the objects of `label` one to one (else it counts voxels)."""
    return label in INSTANCE_CLASSES


def output_channels(classes: Iterable[str]) -> list[str]:
    """Channels that a network for `classes` puts out, in order.

    Each class has a channel of its own name; an instance class has `{class}_boundary` right
    after it, so that objects that touch can be told apart.
    """
    channels: list[str] = []
    for label in classes:
        channels.append(label)
        if is_instance(label):
            channels.append(label + BOUNDARY_SUFFIX)
    return channels


def class_of(channel: str) -> str:
    """The class that an output channel belongs to."""
    return channel.removesuffix(BOUNDARY_SUFFIX)
