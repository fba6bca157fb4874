"""Where windows lie over a region, what each counts in the blend, and when voxels are done."""

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
from cellmap_pipeline.io.resampling import taps

CPU = torch.device("cpu")


class Windows:
    """Overlapping windows over a region, laid and weighted as MONAI does.

    Parameters
    ----------
    shape
        Of the region, voxels; at least one window.
    window
        Shape of a window, voxels.
    overlap
        Of neighbouring windows, 0 to below 1.
    blending
        Importance within a window: `gaussian` (sigma an eighth of it) or `constant`.

    Attributes
    ----------
    starts
        Per axis, where windows begin, in order.
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
        self._weights = lru_cache(maxsize=16)(self._weigh)

    def weights(self, start: Shape, device: torch.device = CPU) -> Tensor:
        """What the voxels of the window at `start` count, float32 (z, y, x); 1 in sum over all."""
        return self._weights(
            tuple(
                tuple(other - s for other in starts if abs(other - s) < w)
                for s, starts, w in zip(start, self.starts, self.window, strict=True)
            ),
            device,
        )

    def _weigh(self, neighbours: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
        total = torch.zeros(self.window)
        for index in np.ndindex(*map(len, neighbours)):
            shift = [axis[i] for axis, i in zip(neighbours, index, strict=True)]
            here = tuple(
                slice(max(s, 0), w + min(s, 0)) for s, w in zip(shift, self.window, strict=True)
            )
            there = tuple(
                slice(max(-s, 0), w + min(-s, 0)) for s, w in zip(shift, self.window, strict=True)
            )
            total[here] += self._importance[there]
        return (self._importance / total).to(device)


@dataclass(frozen=True)
class Layer:
    """The windows that begin at one z, and what is done with them.

    Attributes
    ----------
    start
        Where they begin, in voxels of the region.
    finished
        By channel, the first and last + 1 of its z planes that no later window changes.
    keep
        Planes of the region below this are not needed any more.
    """

    start: int
    finished: dict[str, tuple[int, int]]
    keep: int


def plan_layers(
    windows: Windows,
    region: Grid,
    grids: Mapping[str, Grid],
    chunks: Mapping[str, int],
    parts: Mapping[str, tuple[int, int]],
) -> list[Layer]:
    """The layers of windows that planes of channels take, in order.

    Parameters
    ----------
    windows
        Over `region`.
    grids
        By channel, its label's own grid.
    chunks
        By channel, the planes of a chunk of its array: only whole chunks are finished, so that none
        is written twice.
    parts
        By channel, the first and last + 1 of the planes wanted; an empty part is none.
    """
    support = {name: _support(region, grid) for name, grid in grids.items()}
    wanted = {name: part for name, part in parts.items() if part[0] < part[1]}
    done = {name: first for name, (first, _) in wanted.items()}
    starts, size = windows.starts[0], windows.window[0]

    def first_needed() -> int:
        """The first plane of the region that what is not done is made of."""
        open_ = [int(support[n][0][done[n]]) for n, (_, last) in wanted.items() if done[n] < last]
        return min(open_, default=region.shape[0])

    layers = []
    for start, final in zip(starts, [*starts[1:], region.shape[0]], strict=True):
        if start + size <= first_needed():
            continue
        finished = {}
        for name, (_, last) in wanted.items():
            ready = int(np.searchsorted(support[name][1], final, side="right"))
            ready = last if ready >= last else ready - ready % chunks[name]
            if ready > done[name]:
                finished[name] = (done[name], ready)
                done[name] = ready
        layers.append(Layer(start, finished, keep=first_needed()))
        if done == {name: last for name, (_, last) in wanted.items()}:
            break
    return layers


def _support(region: Grid, grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last + 1 of the region's planes that each plane of `grid` is resampled from."""
    step = grid.voxel_size[0] / region.voxel_size[0]
    planes, _ = taps(region.shape[0], region.position(grid)[0], step, grid.shape[0])
    return planes.min(axis=1), planes.max(axis=1) + 1


def meets(
    start: Sequence[int], size: Sequence[int], low: Sequence[int], high: Sequence[int]
) -> bool:
    """Whether the box of `size` at `start` overlaps the box low..high."""
    return all(s < hi and s + w > lo for s, w, lo, hi in zip(start, size, low, high, strict=True))
