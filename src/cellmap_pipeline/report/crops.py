"""Pictures of a test crop: raw, truth where it is known, and the labels made, in three planes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from cellmap_pipeline.classes import COLOURS, in_order, is_instance, look_of
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid, Shape, middle
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.style import drawing

Image = NDArray[np.float32]

OBJECT_COLOURS = np.array([to_rgb(colour) for colour in COLOURS], np.float32)
FILL = np.float32(0.35)
PIXELS = 400  # of the longer side of three planes put together
GAP = 8
CELL_INCHES = 2.7
CELLS_PER_ROW = 6
BETWEEN_PANELS = 0.1  # of a cell's width
# Without truth beside them, several semantic labels share a picture.
LABELS_PER_PANEL = 3
SLAB = 64
# Of a label's voxels, to find the slices that show most of it.
MOST_LOOKED_AT = 64_000_000
# Outlines of the labels in a picture: whole, and in pieces of so many pixels.
DASHES = (0, 5, 2)
LINES = ("-", "--", ":")


@dataclass(frozen=True)
class Panel:
    """Labels on one grid that share a picture; `truth` lacks those whose truth is unknown."""

    grid: Grid
    labels: list[str]
    made: dict[str, LabelVolume]
    truth: dict[str, LabelVolume]


def plot_crop(
    raw: Volume, rows: Sequence[CropLabel], made: Path, truth: Path | None, path: Path
) -> None:
    """Draw a test crop: raw, truth and labels through the slices with most labelled voxels.

    Each picture has three planes that cross: x–y, below it x–z, right of it y–z.

    Parameters
    ----------
    raw
        Of the crop's dataset.
    rows
        The manifest's rows of the labels to draw, all of one crop.
    made
        Folder of the labels made, `{label}`.
    truth
        Folder of the true labels, `{label}`, as far as they are known; None: nowhere.
    path
        JPEG to write.

    Raises
    ------
    InputError
        Raw or a label cannot be read.
    """
    panels = _panels(rows, made, truth)
    with_truth = any(panel.truth for panel in panels)
    cells = 3 if with_truth else 2
    down = math.ceil(len(panels) / (CELLS_PER_ROW // cells))
    across = math.ceil(len(panels) / down)
    shared = any(len(panel.labels) > 1 for panel in panels)
    widths = (([1.0] * cells + [BETWEEN_PANELS]) * across)[:-1]
    aspect = max(extent(p.grid, 0, 1) / extent(p.grid, 0, 2) for p in panels)
    height = down * (CELL_INCHES * aspect + 0.3) + (0.8 if shared else 0.4)
    with drawing(path, sum(widths) * CELL_INCHES, height) as figure:
        figure.suptitle(f"{rows[0].dataset}, crop {rows[0].crop}")
        axes = figure.subplots(down, len(widths), squeeze=False, width_ratios=widths)
        for ax in axes.flat:
            ax.set_axis_off()
        for i, panel in enumerate(panels):
            first = i % across * (cells + 1)
            draw_panel(list(axes[i // across, first : first + cells]), raw, panel, with_truth)
        if shared:
            _legend(figure, panels)


def most_labelled(grid: Grid, volumes: Sequence[LabelVolume]) -> Shape:
    """The slice along each axis that holds most of the volumes' labelled voxels.

    Each volume counts alike, however much it labels; of slices that are as good within a tenth,
    the one nearest the middle.
    """
    shares = [np.zeros(n) for n in grid.shape]
    for volume in volumes:
        counts = _labelled_voxels(grid, volume)
        for share, count in zip(shares, counts, strict=True):
            share += count / max(1, count.sum())
    best = []
    for share in shares:
        good = np.flatnonzero(share >= 0.9 * share.max())
        best.append(int(good[np.abs(good - (len(share) - 1) / 2).argmin()]))
    return best[0], best[1], best[2]


def scale_bar(nm: float) -> tuple[float, str]:
    """Length and name of a scale bar for a picture `nm` wide: 1, 2 or 5 of a unit, a third at most.

    Returns
    -------
    length
        nm.
    name
        As in "500 nm" or "2 µm".
    """
    power = 10 ** math.floor(math.log10(nm / 3))
    length = max(step * power for step in (1, 2, 5) if step * power <= nm / 3)
    return length, f"{length:g} nm" if length < 1000 else f"{length / 1000:g} µm"


def paint(
    image: Image, ids: NDArray, label: str, position: int = 0, by_object: bool = True
) -> None:
    """Draw a label over an image, in place: filled, with an outline around each object.

    Objects of an instance label get colours of their own (if `by_object`), others the colour of
    their class.

    Parameters
    ----------
    image
        (h, w, 3) in 0..1.
    ids
        (h, w); 0 is background.
    position
        Of the label among those in the image; sets how its outline is dashed.
    """
    if by_object and is_instance(label):
        colours = OBJECT_COLOURS[(ids.astype(np.int64) - 1) % len(OBJECT_COLOURS)]
    else:
        colours = np.broadcast_to(np.array(to_rgb(look_of(label).colour), np.float32), image.shape)
    inside = ids != 0
    image[inside] = (1 - FILL) * image[inside] + FILL * colours[inside]
    outline = find_boundaries(ids, mode="inner") & inside
    if DASHES[position]:
        row, column = np.indices(ids.shape) // DASHES[position]
        outline &= (row + column) % 2 == 0
    image[outline] = colours[outline]


def _panels(rows: Sequence[CropLabel], made: Path, truth: Path | None) -> list[Panel]:
    by_label = {row.label: row for row in rows}
    known = {
        label: LabelVolume.open(truth / label)
        for label in by_label
        if truth is not None and (truth / label).is_dir()
    }
    groups: list[list[str]] = []
    for label in sorted(in_order(list(by_label)), key=is_instance, reverse=True):
        last = groups[-1] if groups else []
        together = (
            last
            and not known
            and len(last) < LABELS_PER_PANEL
            and not is_instance(label)
            and not is_instance(last[-1])
            and by_label[last[-1]].grid == by_label[label].grid
        )
        if together:
            last.append(label)
        else:
            groups.append([label])
    return [
        Panel(
            by_label[labels[0]].grid,
            labels,
            {label: LabelVolume.open(made / label) for label in labels},
            {label: known[label] for label in labels if label in known},
        )
        for labels in groups
    ]


def draw_panel(axes: Sequence[Axes], raw: Volume, panel: Panel, with_truth: bool) -> None:
    """Fill the cells of a panel: raw, truth (where any panel has one), labels made."""
    grid = panel.grid
    at = most_labelled(grid, [*panel.made.values(), *panel.truth.values()])
    pixel = max(extent(grid, 0, 1), extent(grid, 0, 2)) / PIXELS
    boxes = [_slice(grid, axis, index) for axis, index in enumerate(at)]
    planes = [_pixels(box, axis, pixel) for axis, box in enumerate(boxes)]
    grey = [
        _upright(raw.read_raw(plane, core=box), axis)
        for axis, (plane, box) in enumerate(zip(planes, boxes, strict=True))
    ]
    grey = stretched(grey)
    axes[0].imshow(_mosaic([_rgb(g) for g in grey]))
    axes[0].set_title(", ".join(panel.labels), loc="left", weight="bold")
    if len(panel.labels) == 1:
        axes[0].set_title("raw")
    _mark(axes[0], grid, at, pixel, grey)
    sides = [("truth", panel.truth), ("prediction", panel.made)]
    for ax, (title, volumes) in zip(axes[1:], sides if with_truth else sides[1:], strict=True):
        ax.set_title(title)
        if not volumes:
            ax.text(0.5, 0.5, f"no {title}", ha="center", va="center", transform=ax.transAxes)
            continue
        images = [_rgb(g) for g in grey]
        for axis, (image, plane) in enumerate(zip(images, planes, strict=True)):
            for position, (label, volume) in enumerate(volumes.items()):
                paint(image, _upright(volume.read(plane)[0], axis), label, position)
        ax.imshow(_mosaic(images))


def _mark(ax: Axes, grid: Grid, at: Shape, pixel: float, grey: Sequence[Image]) -> None:
    """Show where the planes cross, and how long things are."""
    height, width = grey[0].shape
    z, y, x = ((i + 0.5) * v / pixel - 0.5 for i, v in zip(at, grid.voxel_size, strict=True))
    line: dict[str, Any] = {"color": "white", "lw": 0.5, "alpha": 0.8, "ls": (0, (6, 4))}
    depth = grey[2].shape[1]
    right, below = width + GAP, height + GAP
    for xs, ys in (
        ((x, x), (0, height - 1)),
        ((0, width - 1), (y, y)),
        ((x, x), (below, below + depth - 1)),
        ((0, width - 1), (below + z, below + z)),
        ((right + z, right + z), (0, height - 1)),
        ((right, right + depth - 1), (y, y)),
    ):
        ax.plot(xs, ys, **line)
    length, name = scale_bar(extent(grid, 2))
    left, bottom = 0.05 * width, 0.94 * height
    for colour, lw in (("black", 4.5), ("white", 2.5)):
        ax.plot((left, left + length / pixel), (bottom, bottom), color=colour, lw=lw)
    ax.text(
        left, bottom - 0.03 * height, name, color="white", fontsize=8, va="bottom",
        bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "lw": 0},
    )  # fmt: skip
    where = f"z {at[0]}\ny {at[1]}\nx {at[2]}"
    ax.text(right, below, where, fontsize=7, va="top", linespacing=1.1)


def _legend(figure: Figure, panels: Sequence[Panel]) -> None:
    """Say how labels that share a picture are drawn."""
    lines = [
        Line2D([], [], color=look_of(label).colour, ls=LINES[position], lw=2, label=label)
        for panel in panels
        if len(panel.labels) > 1
        for position, label in enumerate(panel.labels)
    ]
    columns = max(1, int(figure.get_figwidth() // 1.5))
    figure.legend(handles=lines, loc="outside lower center", ncols=columns)


def _labelled_voxels(grid: Grid, volume: LabelVolume) -> list[NDArray[np.int64]]:
    """Labelled voxels of each slice along z, y and x, of large crops in the middle of them.

    A slab at a time.
    """
    looked_at = middle(grid, MOST_LOOKED_AT)
    first = grid.offset(looked_at)
    assert first
    (z0, y0, x0), (depth, height, width) = first, looked_at.shape
    counts = [np.zeros(n, np.int64) for n in grid.shape]
    for z in range(0, depth, SLAB):
        slab = looked_at.box((z, 0, 0), (min(SLAB, depth - z), height, width))
        labelled = volume.read(slab)[0] != 0
        counts[0][z0 + z : z0 + z + len(labelled)] = np.count_nonzero(labelled, axis=(1, 2))
        counts[1][y0 : y0 + height] += np.count_nonzero(labelled, axis=(0, 2))
        counts[2][x0 : x0 + width] += np.count_nonzero(labelled, axis=(0, 1))
    return counts


def extent(grid: Grid, *axes: int) -> float:
    """Length along `axes` together, nm."""
    return sum(grid.shape[axis] * grid.voxel_size[axis] for axis in axes)


def _slice(grid: Grid, axis: int, index: int) -> Grid:
    start = [index if d == axis else 0 for d in range(3)]
    return grid.box(start, [1 if d == axis else n for d, n in enumerate(grid.shape)])


def _pixels(box: Grid, axis: int, pixel: float) -> Grid:
    """A slice in square pixels of `pixel` nm."""
    return box.at([v if d == axis else pixel for d, v in enumerate(box.voxel_size)])


def _upright(voxels: NDArray, axis: int) -> NDArray:
    """A slice as its picture stands: y or z downwards, x or z to the right."""
    plane = voxels.squeeze(axis)
    return plane.T if axis == 2 else plane


def stretched(grey: list[Image]) -> list[Image]:
    """Contrast stretched to the darkest and brightest hundredth of all planes together."""
    low, high = np.percentile(np.concatenate([g.ravel() for g in grey]), (0.5, 99.5))
    return [np.clip((g - low) / max(high - low, 1e-6), 0, 1) for g in grey]


def _rgb(grey: Image) -> Image:
    return np.repeat(grey[..., None], 3, axis=-1)


def _mosaic(planes: Sequence[Image]) -> Image:
    """x–y with x–z below it and y–z right of it, on white."""
    xy, xz, yz = planes
    height, width = (a + GAP + b for a, b in ((len(xy), len(xz)), (xy.shape[1], yz.shape[1])))
    image = np.ones((height, width, 3), np.float32)
    image[: len(xy), : xy.shape[1]] = xy
    image[-len(xz) :, : xz.shape[1]] = xz
    image[: len(yz), -yz.shape[1] :] = yz
    return image
