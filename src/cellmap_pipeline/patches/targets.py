"""Training targets, made from the object ids of each class.

Targets are stored as one byte per channel and voxel, and are passed on as codes that stand for
combinations of them (`label_codes`).

Affinities and local shape descriptors cannot be stored: they depend on directions, which change
when a patch is flipped, transposed or rotated. So instead of these channels of a class, its object
ids are stored (`stored_channels`), pass through augmentation like any other target, and become
affinities (`write_affinity`) or descriptors (`descriptors`) afterwards. An id has up to 64 bits,
but a stored channel has one byte, in which 255 means unknown. Therefore each id is hashed to a
number below 255² and written as two base-255 digits, the channels `{class}#low` and
`{class}#high`: both 0 outside of objects, both 255 where unknown. Two objects that touch have the
same digits with a probability of 1 in 65,024.
"""

from collections.abc import Mapping, Sequence

import edt
import numpy as np
import torch
from numpy.typing import NDArray

from cellmap_pipeline.channels import (
    AFFINITY_SUFFIXES,
    BOUNDARY_SUFFIX,
    DISTANCE_SUFFIX,
    class_of,
    depends_on_ids,
    is_descriptor,
    long_range_offset_nm,
)
from cellmap_pipeline.geometry import Shape, Vector, pair_slices, shape_of

UNKNOWN = 255
# Distances are stored in voxels of the finest axis, up to this one.
MAX_DISTANCE_VOXELS = 8
ID_DIGIT_SUFFIXES = ("#low", "#high")
ID_DIGIT_BASE = 255
# Descriptors are fractions from 0 to 1, stored as multiples of one over this.
FRACTION_ONE = 254


def stored_channels(channels: Sequence[str]) -> list[str]:
    """List the channels to store for output `channels`.

    Id digits take the place of affinities and descriptors.
    """
    stored: list[str] = []
    for channel in channels:
        if not depends_on_ids(channel):
            stored.append(channel)
        elif class_of(channel) + ID_DIGIT_SUFFIXES[0] not in stored:
            stored += [class_of(channel) + suffix for suffix in ID_DIGIT_SUFFIXES]
    return stored


def halo(channels: Sequence[str]) -> int:
    """Width of the margin around a box, in voxels, that its targets depend on."""
    has_distance = any(channel.endswith(DISTANCE_SUFFIX) for channel in channels)
    return MAX_DISTANCE_VOXELS if has_distance else 1


def target_divisors(channels: Sequence[str]) -> list[int]:
    """Divisor of each channel that scales its stored targets to 0..1."""
    return [
        MAX_DISTANCE_VOXELS if channel.endswith(DISTANCE_SUFFIX)
        else FRACTION_ONE if is_descriptor(channel)
        else 1
        for channel in channels
    ]  # fmt: skip


def make_targets(
    labels: Mapping[str, NDArray[np.integer]],
    known: Mapping[str, NDArray[np.bool_] | None],
    channels: Sequence[str],
    voxel_size: Vector = (1, 1, 1),
) -> NDArray[np.uint8]:
    """Make the targets of all stored channels of a patch.

    A class's own channel is its foreground, ids above 0. Its `{class}_boundary` channel is the
    inner boundary of its objects: the voxels of an object with one of their six neighbors in
    another object or in none. The patch's faces are no boundary. Its `{class}_distance` channel
    is the distance to the nearest voxel that is not of the object, 0 outside, in voxels of the
    finest axis, rounded, at most `MAX_DISTANCE_VOXELS`. Boundaries and distances that depend on
    an unknown voxel are unknown, too. `{class}#low` and `{class}#high` are the digits of the
    object ids (see the module's docstring).

    Parameters
    ----------
    labels : mapping
        Class to integer ids (z, y, x), all of one shape. Classes that the crop does not annotate
        are absent, and their channels unknown.
    known : mapping
        Class to bool (z, y, x), false where its ids are unknown; absent or None: all known.
    channels : sequence of str
        Channels as returned by `stored_channels`.
    voxel_size
        Voxel size along z, y, x in nm; only the ratios matter.

    Returns
    -------
    numpy.ndarray
        uint8 (c, z, y, x): 0, 1 (up to `MAX_DISTANCE_VOXELS` for a distance, 254 for a digit), or
        255 where unknown.
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
            target[:] = _id_digits(ids)[channel.endswith(ID_DIGIT_SUFFIXES[1])]
        if unknown is not None:
            _mark_unknown(target, unknown)
    return targets


def affinity_offset(channel: str, voxel_size: Vector) -> Shape | None:
    """Return the offset (z, y, x) of an affinity's channel, in voxels; None for other channels."""
    for axis, suffix in enumerate(AFFINITY_SUFFIXES):
        if channel.endswith(suffix):
            return shape_of(int(a == axis) for a in range(3))
    offset_nm = long_range_offset_nm(channel)
    if offset_nm is None:
        return None
    return shape_of(round(o / v) for o, v in zip(offset_nm, voxel_size, strict=True))


def object_ids(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Return the ids (z, y, x) that two digits stand for, int32: 0 outside, -1 where unknown."""
    ids = low.int() + ID_DIGIT_BASE * high.int()
    return ids.masked_fill_(low == UNKNOWN, -1)


def write_affinity(ids: torch.Tensor, offset: Shape, out: torch.Tensor) -> None:
    """Write whether each voxel p and the voxel p - `offset` are of one object.

    Parameters
    ----------
    ids
        (z, y, x), as of `object_ids`.
    offset
        Voxels (z, y, x); components may be negative.
    out
        (z, y, x) uint8, receives the affinity: 0, 1, or 255 where one of the two voxels is unknown
        or lies beyond the patch.
    """
    here, there = pair_slices(ids.shape, offset)
    one, other = ids[here], ids[there]
    same = ((one == other) & (one > 0)).to(torch.uint8)
    out.fill_(UNKNOWN)
    out[here] = same.masked_fill_((one < 0) | (other < 0), UNKNOWN)


def scale_distances(table: torch.Tensor, channels: Sequence[str], scale: float) -> torch.Tensor:
    """Return a table of targets for a patch in which objects are `scale` times smaller.

    Parameters
    ----------
    table
        (codes, c) uint8, the stored targets of each code.
    channels
        Names of the stored channels.
    scale
        Factor by which distances are divided. Those that are only known to be at least
        `MAX_DISTANCE_VOXELS` are unknown in smaller objects.
    """
    scaled = table.clone()
    for values, channel in zip(scaled.unbind(1), channels, strict=True):
        if channel.endswith(DISTANCE_SUFFIX):
            unknown = values == UNKNOWN
            if scale > 1:
                unknown |= values == MAX_DISTANCE_VOXELS
            # A distance inside an object stays above 0.
            divided = (values / scale).round().clamp(min=1, max=MAX_DISTANCE_VOXELS)
            values.copy_(divided.masked_fill_(values == 0, 0).masked_fill_(unknown, UNKNOWN))
    return scaled


def fill_implied(
    targets: NDArray[np.uint8],
    channels: Sequence[str],
    implied: Mapping[str, tuple[Sequence[str], Sequence[str]]],
) -> None:
    """Fill in, in place, the targets of unknown voxels that other classes imply.

    Parameters
    ----------
    targets
        (c, z, y, x) uint8, 255 where unknown.
    channels
        Names of the channels.
    implied
        Per class, the classes whose voxels belong to it, too, and the classes whose voxels do not
        (`class_table.implied`). A voxel outside of a class is on no boundary of it and in none of
        its objects.
    """
    if not implied:
        return
    positive_voxels = {
        channel: target == 1 for channel, target in zip(channels, targets, strict=True)
    }
    for target, channel in zip(targets, channels, strict=True):
        label = class_of(channel.split("#")[0])
        included, excluded = implied.get(label, ((), ()))
        unknown = target == UNKNOWN
        if not unknown.any():
            continue
        for value, classes in ((0, excluded), (1, included if channel == label else ())):
            for other in classes:
                target[unknown & positive_voxels[other]] = value


def fill_pseudo_labels(
    targets: NDArray[np.uint8],
    channels: Sequence[str],
    labels: Mapping[str, tuple[NDArray[np.integer], NDArray[np.bool_]]],
) -> None:
    """Fill in, in place, the targets of unknown voxels that have a pseudo-label.

    Only a class's own channel is filled: a probability says nothing about where its objects end.

    Parameters
    ----------
    targets
        (c, z, y, x) uint8, 255 where unknown.
    channels
        Names of the channels.
    labels
        Per class, its pseudo-labels (z, y, x), above 0 where it is present, and where they are
        known.
    """
    for label, (values, known) in labels.items():
        target = targets[channels.index(label)]
        where = known & (target == UNKNOWN)
        target[where] = values[where] > 0


def forget_contradictions(
    rows: NDArray[np.uint8], channels: Sequence[str], atoms: Sequence[Sequence[str]]
) -> None:
    """Make classes unknown, in place, where no atom is compatible with all that is known.

    Where disjoint classes were annotated at the same voxel, all classes become unknown. Otherwise
    what is present is kept: a class may be present in most of a voxel though none of its parts is,
    or have been annotated without its parts. What it implies to be possible becomes unknown.

    Parameters
    ----------
    rows
        (n, channels) uint8, targets of voxels.
    channels
        Names of the channels.
    atoms
        Each atom as the list of the classes that contain it.
    """
    related = [i for i, name in enumerate(channels) if any(name in atom for atom in atoms)]
    contains = np.array([[channels[i] in atom for atom in (*atoms, ())] for i in related], int)
    if not related:
        return
    present, absent = rows[:, related] == 1, rows[:, related] == 0
    lacking = present @ (1 - contains)
    contradictory = (lacking + absent @ contains > 0).all(1)
    # Atoms in all classes that are present, and the classes that contain one of these.
    possible = lacking == 0
    concerned = possible @ contains.T > 0
    forgotten = np.where(possible.any(1)[:, None], absent & concerned, True)
    rows[:, related] |= (contradictory[:, None] & forgotten) * np.uint8(UNKNOWN)


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
    np.minimum(distance.round(), MAX_DISTANCE_VOXELS, out=distance)
    target[:] = distance
    if unknown is not None:
        # The object might end at an unknown voxel.
        nearest = edt.edt(np.ascontiguousarray(~unknown), anisotropy=steps).round()
        _mark_unknown(target, (nearest < distance) & (ids > 0))


def _id_digits(ids: NDArray[np.integer]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the low and high digit of each voxel's hashed id; see the module's docstring."""
    hashed = (ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    hashed = np.where(ids > 0, 1 + hashed % np.uint64(ID_DIGIT_BASE**2 - 1), 0)
    return (hashed % ID_DIGIT_BASE).astype(np.uint8), (hashed // ID_DIGIT_BASE).astype(np.uint8)


def _mark_unknown(target: NDArray[np.uint8], where: NDArray[np.bool_]) -> None:
    # All bits of UNKNOWN are set; a bitwise or is several times as fast as assigning by mask.
    target |= where * np.uint8(UNKNOWN)
