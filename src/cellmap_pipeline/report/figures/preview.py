"""A small picture of a test crop: one plane of the raw with all final labels over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.io.files import atomic_write
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.figures.crops import (
    extent_nm,
    gray_to_rgb,
    most_labeled_slices,
    overlay_label,
    stretch_contrast,
    with_square_pixels,
)

PREVIEW_PIXELS = 240  # longer side
JPEG_QUALITY = 80
# A class that fills the plane, such as the cytosol, would cover all others with its color.
MAX_COVERED_FRACTION = 0.5


def draw_preview(raw: Volume, rows: Sequence[CropLabel], predicted: Path, path: Path) -> None:
    """Draw the x–y plane of a test crop that contains most of the labeled voxels.

    Labels have the colors of their classes, small ones above large ones; those that cover more than
    half of the plane are left out.

    Parameters
    ----------
    raw
        Raw volume of the crop's dataset.
    rows
        The manifest's rows of the labels to draw, all of one crop.
    predicted
        Folder of the final labels, `{label}`.
    path
        JPEG to write.

    Raises
    ------
    InputError
        The raw data or a label cannot be read.
    """
    volumes = {row.label: LabelVolume.open(predicted / row.label) for row in rows}
    grid = min((row.grid for row in rows), key=lambda grid: grid.voxel_size)
    z = most_labeled_slices(grid, list(volumes.values()))[0]
    box = grid.box((z, 0, 0), (1, *grid.shape[1:]))
    pixel_nm = max(extent_nm(grid, 1), extent_nm(grid, 2)) / PREVIEW_PIXELS
    plane = with_square_pixels(box, 0, pixel_nm)
    (gray,) = stretch_contrast([raw.read_raw(plane, core=box)[0]])
    image = gray_to_rgb(gray)
    ids = {label: volume.read(plane)[0][0] for label, volume in volumes.items()}
    covered = {label: np.count_nonzero(labeled) / labeled.size for label, labeled in ids.items()}
    for label in sorted(covered, key=lambda label: -covered[label]):
        if covered[label] <= MAX_COVERED_FRACTION:
            overlay_label(image, ids[label], label, by_object=False)
    with atomic_write(path) as tmp:
        picture = np.round(image * 255).astype(np.uint8)
        imageio.imwrite(tmp, picture, extension=".jpeg", quality=JPEG_QUALITY)
