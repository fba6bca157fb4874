"""Figure of the labelled crops: a slice of each with its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cellmap_pipeline.classes import in_order, look_of
from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.datasplit_csv import read_datasplit
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.storage import Location, volumes_in
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.crops import paint, stretched
from cellmap_pipeline.report.style import drawing

TILE_PIXELS = 160
TILE_INCHES = 1.5
# A picture of more could not be looked at; then some, evenly chosen, stand for all.
MOST_TILES = 300
ACROSS = 10
# Of the classes in a crop, these are drawn at most: those that the figures list first.
MOST_LABELS = 12


@dataclass(frozen=True)
class LabelledCrop:
    """A crop of a datasplit: what it is used for, its raw, folder of labels and classes."""

    usage: str
    raw: Location
    folder: Location
    classes: Sequence[str]


def plot_data(datasplits: Sequence[Path], voxel_size: Sequence[float], path: Path) -> None:
    """Draw the middle slice of each labelled crop of all trainings, with its labels over the raw.

    Parameters
    ----------
    datasplits
        Of all trainings; a crop that several use is drawn once.
    voxel_size
        nm, at which the slices are read at most as fine.
    path
        JPEG to write.

    Raises
    ------
    InputError
        Raw or a label cannot be read.
    """
    crops = labelled_crops(datasplits)
    shown = [crops[i] for i in spread(len(crops), MOST_TILES)]
    across = min(ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    with drawing(path, across * TILE_INCHES, down * (TILE_INCHES + 0.3) + 1.0) as figure:
        if len(shown) < len(crops):
            figure.suptitle(f"{len(shown)} of {len(crops)} labelled crops")
        drawn: set[str] = set()
        for axes in figure.subplots(down, across, squeeze=False).flat:
            axes.set_axis_off()
        for axes, crop in zip(figure.axes, shown, strict=False):
            name = ValidationCrop.of(crop.folder)
            held = " (held back)" if crop.usage == "validate" else ""
            axes.set_title(f"{name.dataset}\ncrop {name.number}{held}", fontsize=6)
            image, labels = _tile(crop, voxel_size)
            axes.imshow(image)
            drawn.update(labels)
        _legend(figure, in_order(list(drawn)))


def labelled_crops(datasplits: Sequence[Path]) -> list[LabelledCrop]:
    """The crops of several datasplits, each once, with all classes that any of them takes."""
    found: dict[str, LabelledCrop] = {}
    for path in datasplits:
        for usage, raw, folder, classes in read_datasplit(path, None):
            before = found.get(str(folder))
            merged = [*before.classes, *classes] if before else classes
            kept = before.usage if before else usage
            found[str(folder)] = LabelledCrop(kept, raw, folder, list(dict.fromkeys(merged)))
    return list(found.values())


def spread(n: int, most: int) -> list[int]:
    """At most `most` of 0..n-1, evenly spread."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, most))})


def _tile(crop: LabelledCrop, voxel_size: Sequence[float]) -> tuple[np.ndarray, list[str]]:
    """The picture (h, w, 3) of a crop's middle slice, and the classes in it."""
    names = in_order(crop.classes)
    volumes = {
        name: LabelVolume.open(crop.folder / name) for name in volumes_in(crop.folder, names)
    }
    if not volumes:
        raise InputError(f"{crop.folder} has none of {', '.join(names)}")
    plane = middle_slice(next(iter(volumes.values())).volume.levels[0].grid, voxel_size)
    raw = Volume.open(crop.raw)
    (grey,) = stretched([raw.read_raw(plane, core=plane)[0]])
    image = np.repeat(grey[..., None], 3, axis=-1)
    drawn: list[str] = []
    for name, volume in volumes.items():
        if len(drawn) == MOST_LABELS:
            break
        ids, _ = volume.read(plane)
        if ids.any():
            paint(image, ids[0], name, by_object=False)
            drawn.append(name)
    return image, drawn


def middle_slice(grid: Grid, voxel_size: Sequence[float]) -> Grid:
    """The middle z plane of a crop, in square pixels."""
    extent = [n * v for n, v in zip(grid.shape[1:], grid.voxel_size[1:], strict=True)]
    pixel = max(max(extent) / TILE_PIXELS, *voxel_size[1:])
    plane = grid.box((grid.shape[0] // 2, 0, 0), (1, *grid.shape[1:]))
    return plane.at((grid.voxel_size[0], pixel, pixel))


def _legend(figure: Figure, labels: Sequence[str]) -> None:
    patches = [
        Patch(facecolor=look_of(label).colour, hatch=look_of(label).hatch, label=label,
              edgecolor="black", lw=0.4)
        for label in labels
    ]  # fmt: skip
    columns = max(1, int(figure.get_figwidth() // 1.2))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=7)
