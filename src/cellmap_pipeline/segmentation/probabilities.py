"""A label's probabilities on its final grid, from one prediction or several together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import FURTHER
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.resampling import resample
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.segmentation.blocks import Block

# A prediction of a label: its path, or those of the parts that the label is made of.
Source = Sequence[Path]


@dataclass(frozen=True)
class Probabilities:
    """The mean of predictions of `label` on `grid`.

    Attributes
    ----------
    label
        Its name.
    grid
        Of the final label.
    sources
        Predictions. The probability of a label that is made of parts is the sum of theirs, since no
        voxel is of two of them. Further channels (`{label}_boundary`, …) lie beside a path, and
        count where all sources have them.
    """

    label: str
    grid: Grid
    sources: Sequence[Source]

    @cached_property
    def channels(self) -> list[str]:
        """Names of the channels: the label's own, and the further ones."""
        whole = all(len(source) == 1 for source in self.sources)
        further = [
            [self.label + suffix for suffix in suffixes]
            for suffixes in FURTHER.values()
            if whole
            and all(
                _beside(source[0], suffix).is_dir()
                for source in self.sources
                for suffix in suffixes
            )
        ]
        return [self.label, *(name for names in further for name in names)]

    def read(
        self, block: Block | None = None, channels: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.uint8]]:
        """By channel its values (z, y, x), 0..255 for 0..1, in a block of the grid or all of it."""
        grid = self.grid.box(block.start, block.shape) if block else self.grid
        return {name: self._channel(name, grid) for name in channels or self.channels}

    def _channel(self, channel: str, grid: Grid) -> NDArray[np.uint8]:
        total: NDArray | None = None
        for source in self.sources:
            suffix = channel.removeprefix(self.label)
            values = _sum([_beside(path, suffix) for path in source], grid)
            if len(self.sources) == 1:
                return values
            total = values.astype(np.uint32) if total is None else np.add(total, values, out=total)
        assert total is not None
        return np.round(total / len(self.sources)).astype(np.uint8)


def read_on(path: Path, grid: Grid) -> NDArray[np.uint8]:
    """Probabilities of a volume on `grid`, uint8 0..255.

    Floats hold 0..1, unsigned integers 0 to the highest of their type.
    """
    level = Volume.open(path).level_for(grid.voxel_size)
    start, stop = level.grid.index_box(grid, margin=1)
    size = level.grid.shape
    low = [min(max(0, a), n - 1) for a, n in zip(start, size, strict=True)]
    high = [max(a + 1, min(n, b)) for a, n, b in zip(low, size, stop, strict=True)]
    offset = level.grid.offset(grid)
    if offset is not None and np.dtype(level.metadata["dtype"]) == np.uint8:
        last = [a + n for a, n in zip(offset, grid.shape, strict=True)]
        if all(a >= 0 and b <= n for a, b, n in zip(offset, last, size, strict=True)):
            return level.read(offset, last)
    values = level.read(low, high)
    scale = 255 / np.iinfo(values.dtype).max if values.dtype.kind == "u" else 255
    smooth = resample(values, level.grid.box(low, values.shape), grid) * scale
    return np.round(smooth).clip(0, 255).astype(np.uint8)


def further_beside(path: Path) -> list[Path]:
    """Further channels of the label at `path` that are there."""
    places = (_beside(path, suffix) for suffixes in FURTHER.values() for suffix in suffixes)
    return [place for place in places if place.is_dir()]


def _beside(path: Path, suffix: str) -> Path:
    """Where the channel of this suffix, of the label at `path`, lies."""
    return path.with_name(path.name + suffix)


def _sum(paths: Sequence[Path], grid: Grid) -> NDArray[np.uint8]:
    if len(paths) == 1:
        return read_on(paths[0], grid)
    total = np.zeros(grid.shape, np.uint16)
    for path in paths:
        total += read_on(path, grid)
    return np.minimum(total, 255).astype(np.uint8)
