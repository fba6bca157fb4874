"""Pictures of a test crop in three planes: raw, ground truth (if known) and predicted labels."""

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

from cellmap_pipeline.classes import COLORS, in_class_order, is_instance, style_of
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid, Shape, central_box
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.figures.style import saved_figure

Image = NDArray[np.float32]

OBJECT_COLORS = np.array([to_rgb(color) for color in COLORS], np.float32)
FILL_OPACITY = np.float32(0.35)
MOSAIC_PIXELS = 400  # longer side of the three planes together
GAP_PIXELS = 8
CELL_INCHES = 2.7
MAX_CELLS_PER_ROW = 6
PANEL_GAP = 0.1  # relative to a cell's width
# Without ground truth, several semantic labels share a picture.
MAX_LABELS_PER_PANEL = 3
SLAB_PLANES = 64
# In larger crops, the slices with the most labeled voxels are searched in a central box.
MAX_SEARCHED_VOXELS = 64_000_000
# Outlines of the labels of one picture: solid, and dashed with this many pixels per dash.
DASH_PIXELS = (0, 5, 2)
LEGEND_LINES = ("-", "--", ":")


@dataclass(frozen=True)
class Panel:
    """Labels on one grid that share a picture.

    Attributes
    ----------
    grid
        Grid of the labels.
    labels
        Names of the labels.
    predicted
        Predicted labels by name.
    truth
        Ground-truth labels by name; unknown ones are absent.
    """

    grid: Grid
    labels: list[str]
    predicted: dict[str, LabelVolume]
    truth: dict[str, LabelVolume]


def plot_crop(
    raw: Volume, rows: Sequence[CropLabel], predicted: Path, truth: Path | None, path: Path
) -> None:
    """Draw a test crop: raw, ground truth and labels in the slices with the most labeled voxels.

    Each picture shows three orthogonal planes: x–y, below it x–z, to its right y–z.

    Parameters
    ----------
    raw
        Raw volume of the crop's dataset.
    rows
        The manifest's rows of the labels to draw, all of one crop.
    predicted
        Folder of the predicted labels, `{label}`.
    truth
        Folder of the ground-truth labels, `{label}`, some of which may be absent; None if there is
        no ground truth.
    path
        JPEG to write.

    Raises
    ------
    InputError
        The raw data or a label cannot be read.
    """
    panels = _make_panels(rows, predicted, truth)
    with_truth = any(panel.truth for panel in panels)
    cells = 3 if with_truth else 2
    n_rows = math.ceil(len(panels) / (MAX_CELLS_PER_ROW // cells))
    n_columns = math.ceil(len(panels) / n_rows)
    with_legend = any(len(panel.labels) > 1 for panel in panels)
    widths = (([1.0] * cells + [PANEL_GAP]) * n_columns)[:-1]
    aspect = max(extent_nm(p.grid, 0, 1) / extent_nm(p.grid, 0, 2) for p in panels)
    height = n_rows * (CELL_INCHES * aspect + 0.3) + (0.8 if with_legend else 0.4)
    with saved_figure(path, sum(widths) * CELL_INCHES, height) as figure:
        figure.suptitle(f"{rows[0].dataset}, crop {rows[0].crop}")
        axes = figure.subplots(n_rows, len(widths), squeeze=False, width_ratios=widths)
        for ax in axes.flat:
            ax.set_axis_off()
        for i, panel in enumerate(panels):
            first = i % n_columns * (cells + 1)
            draw_panel(list(axes[i // n_columns, first : first + cells]), raw, panel, with_truth)
        if with_legend:
            _draw_legend(figure, panels)


def most_labeled_slices(grid: Grid, volumes: Sequence[LabelVolume]) -> Shape:
    """Find the slice along each axis that contains most of the labeled voxels.

    All volumes have the same weight, however many voxels they label. Of the slices within 10 % of
    the best one, the most central is taken.

    Parameters
    ----------
    grid
        Grid of the volumes.
    volumes
        Labels.

    Returns
    -------
    tuple of int
        Indices along z, y and x.
    """
    shares = [np.zeros(n) for n in grid.shape]
    for volume in volumes:
        counts = _count_labeled_voxels(grid, volume)
        for share, count in zip(shares, counts, strict=True):
            share += count / max(1, count.sum())
    best = []
    for share in shares:
        good = np.flatnonzero(share >= 0.9 * share.max())
        best.append(int(good[np.abs(good - (len(share) - 1) / 2).argmin()]))
    return best[0], best[1], best[2]


def scale_bar(width_nm: float) -> tuple[float, str]:
    """Choose a scale bar of 1, 2 or 5 times a power of ten, up to a third of a picture's width.

    Parameters
    ----------
    width_nm
        Width of the picture, nm.

    Returns
    -------
    length
        Length, nm.
    text
        Length with its unit, such as "500 nm" or "2 µm".
    """
    power = 10 ** math.floor(math.log10(width_nm / 3))
    length = max(step * power for step in (1, 2, 5) if step * power <= width_nm / 3)
    return length, f"{length:g} nm" if length < 1000 else f"{length / 1000:g} µm"


def overlay_label(
    image: Image, ids: NDArray, label: str, position: int = 0, by_object: bool = True
) -> None:
    """Draw a label over an image, in place: translucent, with an outline around each object.

    Parameters
    ----------
    image
        (h, w, 3) in 0..1.
    ids
        (h, w); 0 is background.
    label
        Name of the label.
    position
        Index of the label among those in the image, which determines how its outline is dashed.
    by_object
        Whether the objects of an instance label get different colors, instead of the color of
        their class.
    """
    if by_object and is_instance(label):
        colors = OBJECT_COLORS[(ids.astype(np.int64) - 1) % len(OBJECT_COLORS)]
    else:
        colors = np.broadcast_to(np.array(to_rgb(style_of(label).color), np.float32), image.shape)
    inside = ids != 0
    image[inside] = (1 - FILL_OPACITY) * image[inside] + FILL_OPACITY * colors[inside]
    outline = find_boundaries(ids, mode="inner") & inside
    if DASH_PIXELS[position]:
        row, column = np.indices(ids.shape) // DASH_PIXELS[position]
        outline &= (row + column) % 2 == 0
    image[outline] = colors[outline]


def _make_panels(rows: Sequence[CropLabel], predicted: Path, truth: Path | None) -> list[Panel]:
    """Distribute labels over panels: instance labels first, each in a panel of its own."""
    by_label = {row.label: row for row in rows}
    known = {
        label: LabelVolume.open(truth / label)
        for label in by_label
        if truth is not None and (truth / label).is_dir()
    }
    groups: list[list[str]] = []
    for label in sorted(in_class_order(list(by_label)), key=is_instance, reverse=True):
        last = groups[-1] if groups else []
        shares_panel = (
            last
            and not known
            and len(last) < MAX_LABELS_PER_PANEL
            and not is_instance(label)
            and not is_instance(last[-1])
            and by_label[last[-1]].grid == by_label[label].grid
        )
        if shares_panel:
            last.append(label)
        else:
            groups.append([label])
    return [
        Panel(
            by_label[labels[0]].grid,
            labels,
            {label: LabelVolume.open(predicted / label) for label in labels},
            {label: known[label] for label in labels if label in known},
        )
        for labels in groups
    ]


def draw_panel(axes: Sequence[Axes], raw: Volume, panel: Panel, with_truth: bool) -> None:
    """Draw the cells of a panel: raw, ground truth (if any panel has one), predicted labels."""
    grid = panel.grid
    indices = most_labeled_slices(grid, [*panel.predicted.values(), *panel.truth.values()])
    pixel_nm = max(extent_nm(grid, 0, 1), extent_nm(grid, 0, 2)) / MOSAIC_PIXELS
    boxes = [_slice(grid, axis, index) for axis, index in enumerate(indices)]
    planes = [with_square_pixels(box, axis, pixel_nm) for axis, box in enumerate(boxes)]
    grays = [
        _to_picture(raw.read_raw(plane, core=box), axis)
        for axis, (plane, box) in enumerate(zip(planes, boxes, strict=True))
    ]
    grays = stretch_contrast(grays)
    axes[0].imshow(_mosaic([gray_to_rgb(gray) for gray in grays]))
    axes[0].set_title(", ".join(panel.labels), loc="left", weight="bold")
    if len(panel.labels) == 1:
        axes[0].set_title("raw")
    _annotate_raw(axes[0], grid, indices, pixel_nm, grays)
    sides = [("ground truth", panel.truth), ("prediction", panel.predicted)]
    for ax, (title, volumes) in zip(axes[1:], sides if with_truth else sides[1:], strict=True):
        ax.set_title(title)
        if not volumes:
            ax.text(0.5, 0.5, f"no {title}", ha="center", va="center", transform=ax.transAxes)
            continue
        images = [gray_to_rgb(gray) for gray in grays]
        for axis, (image, plane) in enumerate(zip(images, planes, strict=True)):
            for position, (label, volume) in enumerate(volumes.items()):
                overlay_label(image, _to_picture(volume.read(plane)[0], axis), label, position)
        ax.imshow(_mosaic(images))


def _annotate_raw(
    ax: Axes, grid: Grid, indices: Shape, pixel_nm: float, grays: Sequence[Image]
) -> None:
    """Mark where the planes intersect, and draw a scale bar."""
    height, width = grays[0].shape
    z, y, x = (
        (i + 0.5) * v / pixel_nm - 0.5 for i, v in zip(indices, grid.voxel_size, strict=True)
    )
    line: dict[str, Any] = {"color": "white", "lw": 0.5, "alpha": 0.8, "ls": (0, (6, 4))}
    depth = grays[2].shape[1]
    right, below = width + GAP_PIXELS, height + GAP_PIXELS
    for xs, ys in (
        ((x, x), (0, height - 1)),
        ((0, width - 1), (y, y)),
        ((x, x), (below, below + depth - 1)),
        ((0, width - 1), (below + z, below + z)),
        ((right + z, right + z), (0, height - 1)),
        ((right, right + depth - 1), (y, y)),
    ):
        ax.plot(xs, ys, **line)
    length, name = scale_bar(extent_nm(grid, 2))
    left, bottom = 0.05 * width, 0.94 * height
    for color, lw in (("black", 4.5), ("white", 2.5)):
        ax.plot((left, left + length / pixel_nm), (bottom, bottom), color=color, lw=lw)
    ax.text(
        left, bottom - 0.03 * height, name, color="white", fontsize=8, va="bottom",
        bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "lw": 0},
    )  # fmt: skip
    text = f"z {indices[0]}\ny {indices[1]}\nx {indices[2]}"
    ax.text(right, below, text, fontsize=7, va="top", linespacing=1.1)


def _draw_legend(figure: Figure, panels: Sequence[Panel]) -> None:
    """Draw a legend of the labels that share a picture."""
    lines = [
        Line2D([], [], color=style_of(label).color, ls=LEGEND_LINES[position], lw=2, label=label)
        for panel in panels
        if len(panel.labels) > 1
        for position, label in enumerate(panel.labels)
    ]
    columns = max(1, int(figure.get_figwidth() // 1.5))
    figure.legend(handles=lines, loc="outside lower center", ncols=columns)


def _count_labeled_voxels(grid: Grid, volume: LabelVolume) -> list[NDArray[np.int64]]:
    """Count the labeled voxels of each slice along z, y and x.

    Reads slab by slab. In large crops, only a central box is counted.
    """
    searched = central_box(grid, MAX_SEARCHED_VOXELS)
    first = grid.offset(searched)
    assert first
    (z0, y0, x0), (depth, height, width) = first, searched.shape
    counts = [np.zeros(n, np.int64) for n in grid.shape]
    for z in range(0, depth, SLAB_PLANES):
        slab = searched.box((z, 0, 0), (min(SLAB_PLANES, depth - z), height, width))
        labeled = volume.read(slab)[0] != 0
        counts[0][z0 + z : z0 + z + len(labeled)] = np.count_nonzero(labeled, axis=(1, 2))
        counts[1][y0 : y0 + height] += np.count_nonzero(labeled, axis=(0, 2))
        counts[2][x0 : x0 + width] += np.count_nonzero(labeled, axis=(0, 1))
    return counts


def extent_nm(grid: Grid, *axes: int) -> float:
    """Sum of the lengths of `grid` along `axes`, nm."""
    return sum(grid.shape[axis] * grid.voxel_size[axis] for axis in axes)


def _slice(grid: Grid, axis: int, index: int) -> Grid:
    start = [index if d == axis else 0 for d in range(3)]
    return grid.box(start, [1 if d == axis else n for d, n in enumerate(grid.shape)])


def with_square_pixels(box: Grid, axis: int, pixel_nm: float) -> Grid:
    """Resample a slice to square pixels of `pixel_nm`."""
    return box.at([v if d == axis else pixel_nm for d, v in enumerate(box.voxel_size)])


def _to_picture(voxels: NDArray, axis: int) -> NDArray:
    """Orient a slice: y or z downwards, x or z to the right."""
    plane = voxels.squeeze(axis)
    return plane.T if axis == 2 else plane


def stretch_contrast(grays: list[Image]) -> list[Image]:
    """Scale images to 0..1, from percentile 0.5 to percentile 99.5 of all of them together."""
    low, high = np.percentile(np.concatenate([gray.ravel() for gray in grays]), (0.5, 99.5))
    return [np.clip((gray - low) / max(high - low, 1e-6), 0, 1) for gray in grays]


def gray_to_rgb(gray: Image) -> Image:
    """Return the color image (h, w, 3) of a gray one (h, w)."""
    return np.repeat(gray[..., None], 3, axis=-1)


def _mosaic(planes: Sequence[Image]) -> Image:
    """Arrange x–y with x–z below it and y–z to its right, on white."""
    xy, xz, yz = planes
    height = len(xy) + GAP_PIXELS + len(xz)
    width = xy.shape[1] + GAP_PIXELS + yz.shape[1]
    image = np.ones((height, width, 3), np.float32)
    image[: len(xy), : xy.shape[1]] = xy
    image[-len(xz) :, : xz.shape[1]] = xz
    image[: len(yz), -yz.shape[1] :] = yz
    return image
