"""The style of all figures, and the elements that several of them share: bars, rows, heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cellmap_pipeline.classes import COLORS, style_of
from cellmap_pipeline.io.files import atomic_write

PNG_DPI = 150
JPEG_DPI = 90
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": PNG_DPI,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.h_pad": 0.03,
}


def tint(color: str, amount: float) -> tuple[float, ...]:
    """Mix `color` with white: an `amount` of 0 leaves it unchanged, 1 gives white."""
    return tuple(part + (1 - part) * amount for part in to_rgb(color))


@contextmanager
def saved_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure that is written to `path` atomically when the block ends.

    Pictures are written as JPEG at a lower resolution, which keeps the report small.

    Parameters
    ----------
    path
        PNG or JPEG (`.jpg`) to write.
    width, height
        Size of the figure, inches.
    """
    options: dict[str, Any] = {"format": "png", "metadata": {"Software": None}}
    if path.suffix == ".jpg":
        options = {"format": "jpeg", "dpi": JPEG_DPI, "pil_kwargs": {"quality": 70}}
    with rc_context(STYLE):
        figure = Figure((width, height), layout="constrained")
        yield figure
        with atomic_write(path) as tmp:
            figure.savefig(tmp, **options)


def draw_class_bars(axes: Axes, labels: Sequence[str], scores: Mapping[str, float]) -> None:
    """Draw a bar per class, from top to bottom, in the style of the class, and its score."""
    for y, label in enumerate(labels):
        style = style_of(label)
        axes.barh(
            y, scores[label], 0.7, color=style.color, hatch=style.hatch, edgecolor="black", lw=0.6
        )
        axes.text(1.03, y, f"{scores[label]:.3f}", va="center")
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    name_class_rows(axes, labels)


def split_into_panels(labels: Sequence[str]) -> list[list[str]]:
    """Split `labels` into groups whose curves have different colors in one panel."""
    n = len(COLORS)
    return [list(labels[i : i + n]) for i in range(0, len(labels), n)]


def name_class_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows of `axes` after classes, the first at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def draw_heat_map(
    axes: Axes,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Mapping[tuple[int, int], float],
    texts: Mapping[tuple[int, int], str],
) -> None:
    """Draw a heat map from white (0) to dark (1).

    Parameters
    ----------
    axes
        Axes to draw on.
    rows, columns
        Names of the rows and columns.
    values
        Values in 0..1 by (row, column); cells without a value stay empty.
    texts
        Texts by (row, column), also for cells without a value.
    """
    for (row, column), value in values.items():
        # A single hue, so that it runs from light to dark in a grayscale print, too.
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
    """Draw a frame around a cell of a heat map."""
    axes.add_patch(_cell(row, column, fill=False, edgecolor="#D55E00", lw=2.5, zorder=3))


def _cell(row: int, column: int, **style: Any) -> Rectangle:
    return Rectangle((column - 0.5, row - 0.5), 1, 1, **style)
