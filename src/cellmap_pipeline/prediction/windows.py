"""Sliding windows over a region: positions, blending weights, and layers along z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.geometry import Grid, Shape
from cellmap_pipeline.io.resampling import interpolation_weights

CPU = torch.device("cpu")


class Windows:
    """Overlapping windows over a region, placed and weighted as in MONAI.

    Parameters
    ----------
    shape
        Shape of the region, in voxels; at least one window.
    window
        Shape of a window, in voxels.
    overlap
        Overlap of neighboring windows, as a fraction of their size, 0 to below 1.
    blending
        Importance within a window: `gaussian` (sigma: an eighth of its size) or `constant`.

    Attributes
    ----------
    starts
        Starts of the windows along each axis, in order.
    """

    def __init__(
        self,
        shape: Shape,
        window: Shape,
        overlap: float,
        blending: Literal["gaussian", "constant"],
    ) -> None:
        self.window = window
        self.starts = [
            [box[0].start for box in dense_patch_slices([n], [w], [max(1, int(w * (1 - overlap)))])]
            for n, w in zip(shape, window, strict=True)
        ]
        importance = compute_importance_map(window, mode=blending, sigma_scale=0.125)
        self._importance = importance.clamp(min=1e-3)
        self._weights = lru_cache(maxsize=16)(self._compute_weights)

    def weights(self, start: Shape, device: torch.device = CPU) -> Tensor:
        """Weights of the voxels of the window at `start`, float32 (z, y, x).

        The weights of all windows over a voxel sum to 1.
        """
        return self._weights(
            tuple(
                tuple(other - s for other in starts if abs(other - s) < w)
                for s, starts, w in zip(start, self.starts, self.window, strict=True)
            ),
            device,
        )

    def _compute_weights(self, shifts: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
        """Compute weights from the shifts to overlapping windows along each axis, 0 included."""
        total = torch.zeros(self.window)
        for index in np.ndindex(*map(len, shifts)):
            shift = [axis[i] for axis, i in zip(shifts, index, strict=True)]
            own = tuple(
                slice(max(s, 0), w + min(s, 0)) for s, w in zip(shift, self.window, strict=True)
            )
            other = tuple(
                slice(max(-s, 0), w + min(-s, 0)) for s, w in zip(shift, self.window, strict=True)
            )
            total[own] += self._importance[other]
        return (self._importance / total).to(device)


@dataclass(frozen=True)
class WindowLayer:
    """The windows that start at the same z, and the planes that they complete.

    Attributes
    ----------
    start
        Start of the windows along z, in voxels of the region.
    finished
        By channel, the first and last + 1 of its z planes that no later window changes.
    keep_from
        First plane of the region that is still needed afterwards.
    """

    start: int
    finished: dict[str, tuple[int, int]]
    keep_from: int


def plan_layers(
    windows: Windows,
    region: Grid,
    grids: Mapping[str, Grid],
    chunks: Mapping[str, int],
    parts: Mapping[str, tuple[int, int]],
    with_raw: tuple[int, int],
) -> list[WindowLayer]:
    """Plan the layers of windows that the requested planes depend on, in order.

    Layers without raw are left out: the planes that no other layer reaches stay 0.

    Parameters
    ----------
    windows
        Windows over `region`.
    grids
        Grid of each channel's label.
    chunks
        Planes per chunk of each channel's array. Only whole chunks are finished, so that none is
        written twice.
    parts
        By channel, the first and last + 1 of the requested planes; a part may be empty.
    with_raw
        First and last + 1 of the region's planes for which there is raw.
    """
    support = {name: _support(region, grid) for name, grid in grids.items()}
    requested = {name: part for name, part in parts.items() if part[0] < part[1]}
    done = {name: first for name, (first, _) in requested.items()}
    size = windows.window[0]
    starts = [z for z in windows.starts[0] if overlaps([z], [size], with_raw[:1], with_raw[1:])]
    if not requested:
        return []

    def first_needed() -> int:
        """First plane of the region that planes not yet done depend on."""
        planes = [
            int(support[n][0][done[n]]) for n, (_, last) in requested.items() if done[n] < last
        ]
        return min(planes, default=region.shape[0])

    layers = []
    for start, final in zip(starts, [*starts[1:], region.shape[0]], strict=True):
        # The last layer also finishes planes behind it.
        if start + size <= first_needed() and start != starts[-1]:
            continue
        finished = {}
        for name, (_, last) in requested.items():
            ready = int(np.searchsorted(support[name][1], final, side="right"))
            ready = last if ready >= last else ready - ready % chunks[name]
            if ready > done[name]:
                finished[name] = (done[name], ready)
                done[name] = ready
        layers.append(WindowLayer(start, finished, keep_from=first_needed()))
        if done == {name: last for name, (_, last) in requested.items()}:
            break
    return layers


def _support(region: Grid, grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Range of the region's planes that each plane of `grid` is resampled from."""
    step = grid.voxel_size[0] / region.voxel_size[0]
    start = region.position(grid)[0]
    planes, _ = interpolation_weights(region.shape[0], start, step, grid.shape[0])
    return planes.min(axis=1), planes.max(axis=1) + 1


def overlaps(
    start: Sequence[int], size: Sequence[int], low: Sequence[int], high: Sequence[int]
) -> bool:
    """Return whether the box of `size` at `start` overlaps the box low..high."""
    return all(s < hi and s + w > lo for s, w, lo, hi in zip(start, size, low, high, strict=True))
