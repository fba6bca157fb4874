"""Figure of the labeled crops: the middle slice of each with its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cellmap_pipeline.classes import in_class_order, style_of
from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.datasplit_csv import DatasplitRow, read_datasplit
from cellmap_pipeline.data.split import TRAIN
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.storage import volumes_in
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.figures.crops import overlay_label, stretch_contrast
from cellmap_pipeline.report.figures.style import saved_figure

TILE_PIXELS = 160
TILE_INCHES = 1.5
MAX_TILES = 300
MAX_TILES_PER_ROW = 10
MAX_LABELS_PER_TILE = 12


def plot_data(datasplits: Sequence[Path], voxel_size: Sequence[float], path: Path) -> None:
    """Draw the middle slice of each labeled crop of all trainings, with its labels over the raw.

    If there are more than `MAX_TILES` crops, an evenly spaced selection is drawn.

    Parameters
    ----------
    datasplits
        Data splits of all trainings; a crop in several of them is drawn once.
    voxel_size
        Finest voxel size at which the slices are read, nm.
    path
        JPEG to write.

    Raises
    ------
    InputError
        The raw data or a label cannot be read.
    """
    crops = labeled_crops(datasplits)
    shown = [crops[i] for i in spread_evenly(len(crops), MAX_TILES)]
    n_columns = min(MAX_TILES_PER_ROW, len(shown))
    n_rows = math.ceil(len(shown) / n_columns)
    size = n_columns * TILE_INCHES, n_rows * (TILE_INCHES + 0.3) + 1.0
    with saved_figure(path, *size) as figure:
        if len(shown) < len(crops):
            figure.suptitle(f"{len(shown)} of {len(crops)} labeled crops")
        labels_drawn: set[str] = set()
        for axes in figure.subplots(n_rows, n_columns, squeeze=False).flat:
            axes.set_axis_off()
        for axes, crop in zip(figure.axes, shown, strict=False):
            name = ValidationCrop.of(crop.labels)
            suffix = " (held out)" if crop.usage == "validate" else ""
            axes.set_title(f"{name.dataset}\ncrop {name.number}{suffix}", fontsize=6)
            image, labels = _draw_tile(crop, voxel_size)
            axes.imshow(image)
            labels_drawn.update(labels)
        _draw_legend(figure, in_class_order(list(labels_drawn)))


def labeled_crops(datasplits: Sequence[Path]) -> list[DatasplitRow]:
    """List the crops of several data splits, each once, with the classes of all of them.

    A crop on which some network trains is not held out.
    """
    crops: dict[str, DatasplitRow] = {}
    for path in datasplits:
        for usage, raw, folder, classes in read_datasplit(path, None, needs_validation=False):
            known = crops.get(str(folder))
            merged = [*known.classes, *classes] if known else classes
            usage = TRAIN if known and known.usage == TRAIN else usage
            crops[str(folder)] = DatasplitRow(usage, raw, folder, list(dict.fromkeys(merged)))
    return list(crops.values())


def spread_evenly(n: int, max_count: int) -> list[int]:
    """Choose up to `max_count` evenly spaced indices from 0 to n - 1."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, max_count))})


def _draw_tile(crop: DatasplitRow, voxel_size: Sequence[float]) -> tuple[np.ndarray, list[str]]:
    """Draw the middle slice (h, w, 3) of a crop; return it with the classes drawn in it."""
    names = in_class_order(crop.classes)
    volumes = {
        name: LabelVolume.open(crop.labels / name) for name in volumes_in(crop.labels, names)
    }
    if not volumes:
        raise InputError(f"{crop.labels} has none of {', '.join(names)}")
    plane = middle_slice(next(iter(volumes.values())).volume.levels[0].grid, voxel_size)
    raw = Volume.open(crop.raw)
    (gray,) = stretch_contrast([raw.read_raw(plane, core=plane)[0]])
    image = np.repeat(gray[..., None], 3, axis=-1)
    drawn: list[str] = []
    for name, volume in volumes.items():
        if len(drawn) == MAX_LABELS_PER_TILE:
            break
        ids, _ = volume.read(plane)
        if ids.any():
            overlay_label(image, ids[0], name, by_object=False)
            drawn.append(name)
    return image, drawn


def middle_slice(grid: Grid, voxel_size: Sequence[float]) -> Grid:
    """The middle z plane of a crop, in square pixels.

    Parameters
    ----------
    grid
        Grid of the crop.
    voxel_size
        Finest voxel size of the result, nm.

    Returns
    -------
    Grid
        One plane of up to `TILE_PIXELS` along y and x.
    """
    extent = [n * v for n, v in zip(grid.shape[1:], grid.voxel_size[1:], strict=True)]
    pixel_nm = max(max(extent) / TILE_PIXELS, *voxel_size[1:])
    plane = grid.box((grid.shape[0] // 2, 0, 0), (1, *grid.shape[1:]))
    return plane.at((grid.voxel_size[0], pixel_nm, pixel_nm))


def _draw_legend(figure: Figure, labels: Sequence[str]) -> None:
    patches = [
        Patch(facecolor=style_of(label).color, hatch=style_of(label).hatch, label=label,
              edgecolor="black", lw=0.4)
        for label in labels
    ]  # fmt: skip
    columns = max(1, int(figure.get_figwidth() // 1.2))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=7)
