"""A label's probabilities on its final grid, from one prediction or the mean of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.channels import AUXILIARY_SUFFIXES, class_of, sampled_grid
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.resampling import resample
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.segmentation.blocks import Block

# A prediction of a label: its path, or those of the parts that the label is composed of.
Prediction = Sequence[Path]


@dataclass(frozen=True)
class Probabilities:
    """The mean of predictions of a label.

    Attributes
    ----------
    label
        Name of the label.
    grid
        Grid of the final label.
    predictions
        Predictions of the label. The probability of a label that is composed of parts is the sum of
        theirs, since parts do not overlap. Auxiliary channels (`{label}_boundary`, …) lie next to a
        path; they are used if all predictions have them, those of one kind together.
    """

    label: str
    grid: Grid
    predictions: Sequence[Prediction]

    @cached_property
    def channels(self) -> list[str]:
        """Names of the channels: the label's own, and the auxiliary ones."""
        if any(len(prediction) > 1 for prediction in self.predictions):
            return [self.label]
        available = [_auxiliary_suffixes(prediction[0]) for prediction in self.predictions]
        common = [suffix for suffix in available[0] if all(suffix in other for other in available)]
        incomplete = {
            suffix
            for suffixes in AUXILIARY_SUFFIXES.values()
            if not set(suffixes) <= set(common)
            for suffix in suffixes
        }
        return [self.label, *(self.label + suffix for suffix in common if suffix not in incomplete)]

    def read(
        self, block: Block | None = None, channels: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.uint8]]:
        """Read channels, by name, in a block of the grid or all of it.

        Returns
        -------
        uint8 (z, y, x), 0..255 for 0..1, by channel.
        """
        grid = self.grid.box(block.start, block.shape) if block else self.grid
        return {name: self._read_channel(name, grid) for name in channels or self.channels}

    def _read_channel(self, channel: str, grid: Grid) -> NDArray[np.uint8]:
        total: NDArray | None = None
        for prediction in self.predictions:
            suffix = channel.removeprefix(self.label)
            values = _sum_of_parts([_channel_path(path, suffix) for path in prediction], grid)
            if len(self.predictions) == 1:
                return values
            total = values.astype(np.uint32) if total is None else np.add(total, values, out=total)
        assert total is not None
        return np.round(total / len(self.predictions)).astype(np.uint8)


def read_probability(path: Path, grid: Grid) -> NDArray[np.uint8]:
    """Read the probabilities of a channel on `grid`, uint8 0..255.

    The folder has the name of the channel.

    Floats are stored as 0..1, unsigned integers as 0 to the highest value of their type.

    Raises
    ------
    InputError
        The probabilities are missing, broken, or not finite.
    """
    level = Volume.open(path).level_for(grid.voxel_size)
    grid = sampled_grid(path.name, level.grid, grid)
    start, stop = level.grid.index_box(grid, margin=1)
    size = level.grid.shape
    low = [min(max(0, a), n - 1) for a, n in zip(start, size, strict=True)]
    high = [max(a + 1, min(n, b)) for a, n, b in zip(low, size, stop, strict=True)]
    offset = level.grid.offset(grid)
    if offset is not None and level.metadata.dtype == np.uint8:
        last = [a + n for a, n in zip(offset, grid.shape, strict=True)]
        if all(a >= 0 and b <= n for a, b, n in zip(offset, last, size, strict=True)):
            return level.read(offset, last)
    values = level.read(low, high)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(
            f"{level.path} contains NaN or infinity: replace it, with 0 where nothing is known"
        )
    scale = 255 / np.iinfo(values.dtype).max if values.dtype.kind == "u" else 255
    resampled = resample(values, level.grid.box(low, values.shape), grid) * scale
    return np.round(resampled).clip(0, 255).astype(np.uint8)


def auxiliary_paths(path: Path) -> list[Path]:
    """List the auxiliary channels that are present for the label at `path`."""
    return [_channel_path(path, suffix) for suffix in _auxiliary_suffixes(path)]


def _auxiliary_suffixes(path: Path) -> list[str]:
    """List the suffixes of the auxiliary channels that are present for the label at `path`."""
    of_kinds = [suffix for suffixes in AUXILIARY_SUFFIXES.values() for suffix in suffixes]
    present = [suffix for suffix in of_kinds if _channel_path(path, suffix).is_dir()]
    beside = sorted(path.parent.glob(f"{path.name}_affinity_*nm"))
    names = [folder.name for folder in beside if folder.is_dir()]
    # Another label may have a name that begins in the same way.
    long_range = [name for name in names if class_of(name) == path.name]
    return present + [name.removeprefix(path.name) for name in long_range]


def _channel_path(path: Path, suffix: str) -> Path:
    """Return the path of the channel with this suffix, of the label at `path`."""
    return path.with_name(path.name + suffix)


def _sum_of_parts(paths: Sequence[Path], grid: Grid) -> NDArray[np.uint8]:
    if len(paths) == 1:
        return read_probability(paths[0], grid)
    total = np.zeros(grid.shape, np.uint16)
    for path in paths:
        total += read_probability(path, grid)
    return np.minimum(total, 255).astype(np.uint8)
