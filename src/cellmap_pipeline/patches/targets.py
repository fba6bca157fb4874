"""What a network is trained towards, made from the ids of each class.

Targets are stored as a byte per channel and voxel, and travel as codes of them (`label_codes`).
Affinities depend on the direction in which a patch lies, so for them the ids travel, as two bytes,
and affinities are made when the patch has been turned (`affinities`).
"""

from collections.abc import Mapping, Sequence

import edt
import numpy as np
import torch
from numpy.typing import NDArray

from cellmap_pipeline.channels import AFFINITY_SUFFIXES, BOUNDARY_SUFFIX, DISTANCE_SUFFIX, class_of
from cellmap_pipeline.geometry import Vector

UNKNOWN = 255
# Voxels (of the finest axis) from an object's rim at which its distance channel is 1.
REACH = 8
ID_SUFFIXES = ("#low", "#high")
# A byte of an id: 255 is kept for unknown.
DIGIT = 255


def stored_channels(channels: Sequence[str]) -> list[str]:
    """What is stored of each voxel to make `channels` of: ids take the place of affinities."""
    stored: list[str] = []
    for channel in channels:
        if channel.endswith(AFFINITY_SUFFIXES[0]):
            stored += [class_of(channel) + suffix for suffix in ID_SUFFIXES]
        elif not channel.endswith(AFFINITY_SUFFIXES):
            stored.append(channel)
    return stored


def halo(channels: Sequence[str]) -> int:
    """Voxels beyond a box that its targets hang on."""
    return REACH if any(channel.endswith(DISTANCE_SUFFIX) for channel in channels) else 1


def scales(channels: Sequence[str]) -> list[int]:
    """What the stored targets of each channel are to be divided by."""
    return [REACH if channel.endswith(DISTANCE_SUFFIX) else 1 for channel in channels]


def make_targets(
    labels: Mapping[str, NDArray[np.integer]],
    known: Mapping[str, NDArray[np.bool_] | None],
    channels: Sequence[str],
    voxel_size: Vector = (1, 1, 1),
) -> NDArray[np.uint8]:
    """Targets of all channels of a patch.

    A class's own channel is its foreground, ids above 0. Its `{class}_boundary` channel is the
    inner boundary of its objects: the voxels of an object with one of their six neighbours in
    another object or in none. The patch's faces are no boundary. Its `{class}_distance` channel
    is the distance to the nearest voxel that is not of the object, 0 outside, in voxels of the
    finest axis, rounded, at most `REACH`. Where these hang on an unknown voxel, they are unknown
    too. `{class}#low` and `#high` are two digits that differ from object to object, 0 outside.

    Parameters
    ----------
    labels : mapping
        Class to integer ids (z, y, x), all of one shape; classes that the crop does not annotate
        are absent, and their channels unknown.
    known : mapping
        Class to bool (z, y, x), false where its ids are unknown; absent or None: all known.
    channels : sequence of str
        As `stored_channels` gives them.
    voxel_size
        nm along z, y, x; only the ratios matter.

    Returns
    -------
    numpy.ndarray
        uint8 (c, z, y, x): 0, 1 (up to `REACH` for a distance, 254 for a digit), or 255 where
        unknown.
    """
    shape = next(iter(labels.values())).shape
    targets = np.full((len(channels), *shape), UNKNOWN, np.uint8)
    for target, channel in zip(targets, channels, strict=True):
        label = _label_of(channel, labels)
        if label not in labels:
            continue
        ids = labels[label]
        where = known.get(label)
        unknown = None if where is None or where.all() else ~where
        inside = ids > 0
        if channel == label:
            target[:] = inside
        elif not inside.any():
            target[:] = 0
        elif channel.endswith(BOUNDARY_SUFFIX):
            _mark_boundary(target, ids, inside, unknown)
        elif channel.endswith(DISTANCE_SUFFIX):
            _measure_distance(target, ids, voxel_size, unknown)
        else:
            target[:] = _digits(ids)[channel.endswith(ID_SUFFIXES[1])]
        if unknown is not None:
            _mark_unknown(target, unknown)
    return targets


def affinities(low: torch.Tensor, high: torch.Tensor, out: torch.Tensor) -> None:
    """Whether each voxel and the one before it along z, y and x are of one object.

    Parameters
    ----------
    low, high
        (z, y, x) uint8, digits of the ids; 0 in both outside objects, 255 unknown.
    out
        (3, z, y, x) uint8, where the affinities go: 0, 1, or 255 where one of the two is unknown or
        lies beyond the patch.
    """
    ids = low.int() + DIGIT * high.int()
    unknown = low == UNKNOWN
    out.fill_(UNKNOWN)
    for axis, target in enumerate(out):
        n = ids.shape[axis] - 1
        before, after = ids.narrow(axis, 0, n), ids.narrow(axis, 1, n)
        same = ((before == after) & (after > 0)).to(torch.uint8)
        unsure = unknown.narrow(axis, 0, n) | unknown.narrow(axis, 1, n)
        target.narrow(axis, 1, n).copy_(same.masked_fill_(unsure, UNKNOWN))


def imply(
    targets: NDArray[np.uint8],
    channels: Sequence[str],
    implied: Mapping[str, tuple[Sequence[str], Sequence[str]]],
) -> None:
    """Fill in, in place, what follows for unknown voxels from other classes.

    Parameters
    ----------
    targets
        (c, z, y, x) uint8, 255 where unknown.
    channels
        Their names.
    implied
        Per class, the classes whose voxels are of it, too, and those whose voxels are not. What is
        not of a class is not its boundary either, and of none of its objects.
    """
    if not implied:
        return
    given = {channel: target == 1 for channel, target in zip(channels, targets, strict=True)}
    for target, channel in zip(targets, channels, strict=True):
        label = class_of(channel.split("#")[0])
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


def _label_of(channel: str, labels: Mapping[str, NDArray[np.integer]]) -> str:
    return channel if channel in labels else class_of(channel.split("#")[0])


def _measure_distance(
    target: NDArray[np.uint8],
    ids: NDArray[np.integer],
    voxel_size: Vector,
    unknown: NDArray[np.bool_] | None,
) -> None:
    """Write the distances inside all objects into `target`; see `make_targets`."""
    steps = tuple(v / min(voxel_size) for v in voxel_size)
    ids = np.ascontiguousarray(ids)
    distance = edt.edt(ids, anisotropy=steps)
    np.minimum(distance.round(), REACH, out=distance)
    target[:] = distance
    if unknown is not None:
        # An unknown voxel might be where the object ends.
        nearest = edt.edt(np.ascontiguousarray(~unknown), anisotropy=steps).round()
        _mark_unknown(target, (nearest < distance) & (ids > 0))


def _digits(ids: NDArray[np.integer]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two digits per voxel. Neighbours of different ids have the same with a chance of 1 in
    65,024.
    """
    mixed = (ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    mixed = np.where(ids > 0, 1 + mixed % np.uint64(DIGIT**2 - 1), 0)
    return (mixed % DIGIT).astype(np.uint8), (mixed // DIGIT).astype(np.uint8)


def _mark_unknown(target: NDArray[np.uint8], where: NDArray[np.bool_]) -> None:
    # Bitwise, since an assignment by mask takes several times as long; all bits set are 255.
    target |= where * np.uint8(UNKNOWN)
