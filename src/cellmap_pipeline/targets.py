"""What a network is trained towards, made from the ids of each class."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import class_of

UNKNOWN = 255


def make_targets(
    labels: Mapping[str, NDArray[np.integer]],
    known: Mapping[str, NDArray[np.bool_] | None],
    channels: Sequence[str],
) -> NDArray[np.uint8]:
    """Targets of all channels of a patch.

    A class's own channel is its foreground, ids above 0. Its `{class}_boundary` channel is the
    inner boundary of its objects: the voxels of an object with one of their six neighbours in
    another object or in none. The patch's faces are no boundary. Where that hangs on an unknown
    neighbour, it is unknown too.

    Parameters
    ----------
    labels : mapping
        Class to integer ids (z, y, x), all of one shape; classes that the crop does not annotate
        are absent, and their channels unknown.
    known : mapping
        Class to bool (z, y, x), false where its ids are unknown; absent or None: all known.
    channels : sequence of str
        As `classes.output_channels` gives them.

    Returns
    -------
    numpy.ndarray
        uint8 (c, z, y, x): 0, 1, or 255 where unknown.
    """
    shape = next(iter(labels.values())).shape
    targets = np.full((len(channels), *shape), UNKNOWN, np.uint8)
    for target, channel in zip(targets, channels, strict=True):
        label = channel if channel in labels else class_of(channel)
        if label not in labels:
            continue
        where = known.get(label)
        unknown = None if where is None or where.all() else ~where
        inside = labels[label] > 0
        if channel == label:
            target[:] = inside
        elif inside.any():
            _mark_boundary(target, labels[label], inside, unknown)
        else:
            target[:] = 0
        if unknown is not None:
            _mark_unknown(target, unknown)
    return targets


def imply(
    targets: NDArray[np.uint8],
    channels: Sequence[str],
    implied: Mapping[str, tuple[Sequence[str], Sequence[str]]],
) -> None:
    """Fill in, in place, what follows for unknown voxels from other classes.

    Parameters
    ----------
    targets : (c, z, y, x) uint8, 255 where unknown.
    channels : their names.
    implied : per class, the classes whose voxels are of it, too, and those whose voxels are not.
        What is not of a class is not its boundary either.
    """
    if not implied:
        return
    given = {channel: target == 1 for channel, target in zip(channels, targets, strict=True)}
    for target, channel in zip(targets, channels, strict=True):
        label = class_of(channel)
        positive, negative = implied.get(label, ((), ()))
        unknown = target == UNKNOWN
        if not unknown.any():
            continue
        for value, sources in ((0, negative), (1, positive if channel == label else ())):
            for source in sources:
                target[unknown & given[source]] = value


def _mark_boundary(
    target: NDArray[np.uint8],
    ids: NDArray[np.integer],
    inside: NDArray[np.bool_],
    unknown: NDArray[np.bool_] | None,
) -> None:
    """Write the inner boundary of all objects into `target`; see `make_targets`."""
    boundary = np.zeros(ids.shape, bool)
    undecided = np.zeros(ids.shape, bool)
    for axis in range(ids.ndim):
        low: list[slice] = [slice(None)] * ids.ndim
        high = list(low)
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        before, after = tuple(low), tuple(high)
        differ = ids[before] != ids[after]
        if unknown is not None:
            differ &= ~(unknown[before] | unknown[after])
            undecided[before] |= unknown[after]
            undecided[after] |= unknown[before]
        boundary[before] |= differ
        boundary[after] |= differ
    boundary &= inside
    target[:] = boundary
    if unknown is not None:
        _mark_unknown(target, undecided & inside & ~boundary)


def _mark_unknown(target: NDArray[np.uint8], where: NDArray[np.bool_]) -> None:
    # Bitwise, since an assignment by mask takes several times as long; all bits set are 255.
    target |= where * np.uint8(UNKNOWN)
