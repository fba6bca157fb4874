"""Measures of the objects of a label, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import cc3d
import fastremap
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.geometry import Grid, Shape, shape_of
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.measurement.surface import LineDirections, exit_areas, line_directions

# Side of the blocks in memory, of which there are several copies.
BLOCK_VOXELS = 128
NM3_PER_UM3, NM2_PER_UM2 = 1e9, 1e6


def measure_objects(volume: LabelVolume, name: str, progress: bool = True) -> pd.DataFrame:
    """Measure the objects of a label at its finest level.

    An object is what has the same id, so a semantic label of 0 and 1 is one object. Memory does
    not depend on the size of the volume.

    Parameters
    ----------
    volume
        The label. Unknown voxels, and negative ids, count as background.
    name
        Name of the label, for the progress bar.
    progress
        Whether to show a progress bar.

    Returns
    -------
    A row per object, sorted by id, with the columns `id`, `voxels`, `volume_um3`, `surface_um2`,
    `center_z_nm`, `center_y_nm`, `center_x_nm` (mean position of its voxels in world coordinates)
    and `touches_border`. Where an object touches the border of the volume, the face along which it
    is cut does not count as surface.
    """
    level = volume.volume.levels[0]
    grid = level.grid
    lines = line_directions(grid.voxel_size)
    boxes = list(_blocks(grid.shape))
    parts = [_Objects.empty()]
    for start, stop in tqdm(boxes, desc=f"measure {name}", unit="block", disable=not progress):
        padded, _ = volume.encoding.decode(_read_padded(level, start, stop, lines.reach))
        # As everywhere, ids above 0 are objects.
        ids = (padded * (padded > 0)).astype(f"u{padded.itemsize}", copy=False)
        parts.append(_measure_block(ids, start, stop, grid.shape, lines))
    return _table(_Objects.merged(parts), grid)


class _Objects(NamedTuple):
    """Objects of a part of a volume.

    Attributes
    ----------
    ids
        (n,) ids.
    voxels
        (n,) number of voxels.
    sums
        (n, 3) sums of the indices of the voxels.
    surface
        (n,) surface, nm².
    touches_border
        (n,) whether a voxel lies at the border of the volume.
    """

    ids: NDArray[np.uint64]
    voxels: NDArray[np.int64]
    sums: NDArray[np.float64]
    surface: NDArray[np.float64]
    touches_border: NDArray[np.bool_]

    @classmethod
    def empty(cls) -> _Objects:
        """No objects."""
        return cls(
            np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros(0),
            np.zeros(0, bool),
        )  # fmt: skip

    @classmethod
    def merged(cls, parts: Sequence[_Objects]) -> _Objects:
        """Add up the parts of each object; sorted by id."""
        all_parts = cls(*map(np.concatenate, zip(*parts, strict=True)))
        ids, index = np.unique(all_parts.ids, return_inverse=True)
        voxels, sums = np.zeros(len(ids), np.int64), np.zeros((len(ids), 3))
        surface, touches_border = np.zeros(len(ids)), np.zeros(len(ids), bool)
        np.add.at(voxels, index, all_parts.voxels)
        np.add.at(sums, index, all_parts.sums)
        np.add.at(surface, index, all_parts.surface)
        np.logical_or.at(touches_border, index, all_parts.touches_border)
        return cls(ids, voxels, sums, surface, touches_border)


def _blocks(shape: Shape) -> Iterator[tuple[Shape, Shape]]:
    for start in product(*(range(0, n, BLOCK_VOXELS) for n in shape)):
        stop = (min(a + BLOCK_VOXELS, n) for a, n in zip(start, shape, strict=True))
        yield shape_of(start), shape_of(stop)


def _read_padded(level: Level, start: Shape, stop: Shape, reach: Shape) -> NDArray:
    """Read a block and `reach` voxels around it; the outermost ones of the volume are repeated."""
    wanted = [(a - r, b + r) for a, b, r in zip(start, stop, reach, strict=True)]
    inside = [(max(0, a), min(n, b)) for (a, b), n in zip(wanted, level.grid.shape, strict=True)]
    values = level.read([a for a, _ in inside], [b for _, b in inside])
    pad = [(a - w, z - b) for (w, z), (a, b) in zip(wanted, inside, strict=True)]
    return np.pad(values, pad, "edge")


def _measure_block(
    padded: NDArray, start: Shape, stop: Shape, shape: Shape, lines: LineDirections
) -> _Objects:
    """Measure the parts of objects that lie in a block.

    Parameters
    ----------
    padded
        (z, y, x) ids in the block, and as far around it as lines reach.
    start, stop
        The block, in voxels of the volume.
    shape
        Number of voxels of the volume.
    lines
        Directions of the lines that surfaces are measured by.
    """
    numbers, ids_by_number = fastremap.renumber(padded, in_place=False)
    core = tuple(slice(r, r + b - a) for r, a, b in zip(lines.reach, start, stop, strict=True))
    block = np.ascontiguousarray(numbers[core])
    count = int(numbers.max())
    inside = np.zeros(numbers.shape, bool)
    inside[core] = block != 0
    surface = exit_areas(numbers, np.flatnonzero(inside), lines, count)
    # The statistics end with the largest number in the block.
    statistics = cc3d.statistics(block, no_slice_conversion=True)
    voxels = np.array(statistics["voxel_counts"], np.int64)
    found = np.flatnonzero(voxels[1:]) + 1
    ids = np.zeros(count + 1, np.uint64)
    for own, number in ids_by_number.items():
        ids[int(number)] = own
    boxes = np.array(statistics["bounding_boxes"], np.int64)[found].reshape(-1, 3, 2)
    at_border = (boxes[:, :, 0] + start == 0) | (boxes[:, :, 1] + start == np.array(shape) - 1)
    centers = np.array(statistics["centroids"])[found] + start
    return _Objects(
        ids[found],
        voxels[found],
        centers * voxels[found, None],
        surface[found],
        at_border.any(axis=1),
    )


def _table(objects: _Objects, grid: Grid) -> pd.DataFrame:
    voxel_nm3 = float(np.prod(grid.voxel_size))
    centers = objects.sums / objects.voxels[:, None] * grid.voxel_size + grid.translation
    positions = {f"center_{axis}_nm": centers[:, i] for i, axis in enumerate("zyx")}
    return pd.DataFrame(
        {
            "id": objects.ids,
            "voxels": objects.voxels,
            "volume_um3": objects.voxels * voxel_nm3 / NM3_PER_UM3,
            "surface_um2": objects.surface / NM2_PER_UM2,
            **positions,
            "touches_border": objects.touches_border,
        }
    )
