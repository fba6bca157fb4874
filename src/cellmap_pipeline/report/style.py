"""The style of all figures, and the parts that several of them have: bars, rows, heat maps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cellmap_pipeline.classes import COLOURS, look_of

DPI = 150
PICTURE_DPI = 90
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": DPI,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.h_pad": 0.03,
}


def tint(colour: str, lighter: float) -> tuple[float, ...]:
    """`colour` mixed with white: 0 leaves it, 1 is white."""
    return tuple(part + (1 - part) * lighter for part in to_rgb(colour))


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` × `height` inches, written to `path` whole or not at all.

    PNG, or JPEG in a lower resolution for pictures, which else would fill the report.
    """
    kind: dict[str, Any] = {"format": "png", "metadata": {"Software": None}}
    if path.suffix == ".jpg":
        kind = {"format": "jpeg", "dpi": PICTURE_DPI, "pil_kwargs": {"quality": 70}}
    with rc_context(STYLE):
        figure = Figure((width, height), layout="constrained")
        yield figure
        partial = path.with_name(path.name + ".partial")
        figure.savefig(partial, **kind)
        os.replace(partial, path)


def class_bars(axes: Axes, labels: Sequence[str], scores: Mapping[str, float]) -> None:
    """A bar per class from top to bottom, in the look of the class, and its score as a number."""
    for y, label in enumerate(labels):
        look = look_of(label)
        axes.barh(
            y, scores[label], 0.7, color=look.colour, hatch=look.hatch, edgecolor="black", lw=0.6
        )
        axes.text(1.03, y, f"{scores[label]:.3f}", va="center")
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    class_rows(axes, labels)


def in_panels(labels: Sequence[str]) -> list[list[str]]:
    """`labels` in groups whose curves can share one panel and be told apart."""
    n = len(COLOURS)
    return [list(labels[i : i + n]) for i in range(0, len(labels), n)]


def class_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows of `axes` after classes, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def heat_map(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[int, int], float],
    texts: Mapping[tuple[int, int], str],
) -> None:
    """Cells of `values` in 0..1 by (row, column), white to dark, with `texts` in them.

    A cell without a value is left empty but for its text.
    """
    for (row, column), value in values.items():
        # A single hue, so that printed in grey it still runs from light to dark.
        shade = [1 - value * (1 - dark) for dark in (0.03, 0.19, 0.42)]
        axes.add_patch(_cell(row, column, facecolor=shade, edgecolor="white", lw=1.5))
    for (row, column), text in texts.items():
        dark = values.get((row, column), 0.0) > 0.55
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def frame_cell(axes: Axes, row: int, column: int) -> None:
    """Put a frame around a cell of a heat map."""
    axes.add_patch(_cell(row, column, fill=False, edgecolor="#D55E00", lw=2.5, zorder=3))


def _cell(row: int, column: int, **style: Any) -> Rectangle:
    return Rectangle((column - 0.5, row - 0.5), 1, 1, **style)
