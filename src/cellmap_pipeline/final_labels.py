"""The final label of a crop, from the predictions of one source or the mean of several."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import BOUNDARY_SUFFIX, is_instance
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel
from cellmap_pipeline.resampling import resample
from cellmap_pipeline.segmentation import segment
from cellmap_pipeline.volumes import Volume, create

# Packaging copies arrays so marked without a look at their values.
LABELS = {"cellmap_pipeline": {"kind": "labels"}}


def segment_crop(
    row: CropLabel,
    sources: Sequence[Path],
    tuned: Mapping[str, Any],
    own: Mapping[str, Any],
    output: Path,
) -> None:
    """Make the label of a manifest row and write it on its grid.

    Parameters
    ----------
    row : which label of which crop, on which grid.
    sources : paths of the label's probabilities, one per source whose mean is taken; their other
        channels lie beside them as `{label}_boundary`.
    tuned : post-processing settings found in validation.
    own : settings of the user's, which go before.
    output : where the label goes, a volume with `s0`: semantic uint8 0/1, instances the smallest
        unsigned type that holds the ids.
    """
    names = [row.label]
    if is_instance(row.label) and all(_beside(path).is_dir() for path in sources):
        names.append(row.label + BOUNDARY_SUFFIX)
    channels = {
        name: _mean([read_on(path.with_name(name) if name != row.label else path, row.grid)
                     for path in sources])
        for name in names
    }  # fmt: skip
    method = own.get("method", tuned.get("method"))
    if method != tuned.get("method") or (method == "watershed_boundary" and len(names) == 1):
        # Found for another method, or for a channel that not all sources have.
        tuned = {}
    labels = segment(row.label, channels, row.grid.voxel_size, {**tuned, **own})
    beside = output.with_name(output.name + ".partial")
    create(beside, row.grid, labels.dtype.name, LABELS).write(labels).result()
    shutil.rmtree(output, ignore_errors=True)
    beside.rename(output)


def read_on(path: Path, grid: Grid) -> NDArray[np.uint8]:
    """Probabilities of a volume on `grid`, uint8 0..255; float volumes hold 0..1."""
    level = Volume.open(path).level_for(grid.voxel_size)
    start, stop = level.grid.index_box(grid, margin=1)
    low = [max(0, a) for a in start]
    high = [min(n, b) for n, b in zip(level.grid.shape, stop, strict=True)]
    values = level.read(low, high)
    source = level.grid.box(low, values.shape)
    if source.offset(grid) == (0, 0, 0) and values.shape == grid.shape and values.dtype == "u1":
        return values
    scale = 255 if values.dtype.kind == "f" else 1
    return np.round(resample(values, source, grid) * scale).clip(0, 255).astype(np.uint8)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + BOUNDARY_SUFFIX)


def _mean(volumes: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    if len(volumes) == 1:
        return volumes[0]
    total = np.zeros(volumes[0].shape, np.uint32)
    for volume in volumes:
        total += volume
    return np.round(total / len(volumes)).astype(np.uint8)
