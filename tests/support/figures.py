"""Inspection of drawn figures, and labels to draw in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import create

GRID = Grid((10, 8, 8), (100, 200, 300), (12, 16, 20))


def write_label(folder: Path, name: str, values: NDArray, grid: Grid = GRID) -> LabelVolume:
    """Write a label and open it."""
    create(folder / name, grid, values.dtype.name)[...] = values
    return LabelVolume.open(folder / name)


def texts_in(axes: Axes) -> list[str]:
    """Texts drawn on axes."""
    return [text.get_text() for text in axes.texts]


def texts_by_cell(axes: Axes) -> dict[tuple[int, ...], str]:
    """Texts of a heat map by (column, row)."""
    return {tuple(int(v) for v in text.get_position()): text.get_text() for text in axes.texts}


def curves_in(axes: Axes) -> dict[object, NDArray[np.float64]]:
    """Curves drawn on axes, by their names in the legend."""
    return {line.get_label(): line.get_xydata() for line in axes.lines}
