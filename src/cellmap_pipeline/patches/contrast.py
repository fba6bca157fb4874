"""A check for raw of inverted contrast, where labels tell.

In electron microscopy, membranes are darker than the cytosol and the space outside of cells; in
raw of inverted contrast, they are brighter. Only crops that annotate both tell the contrast of
their raw. Nothing is claimed about other raw, nor about differences near the noise.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.geometry import Grid, central_box
from cellmap_pipeline.io.raw_statistics import VolumeStatistics
from cellmap_pipeline.patches.crops import CropData

log = logging.getLogger(__name__)

# The membranes of organelles with a bright lumen; mitochondria, lysosomes and lipid droplets may be
# as dark as their membranes.
MEMBRANES = (
    "pm", "er_mem", "er_mem_all", "ne_mem", "ne_mem_all", "golgi_mem", "ves_mem", "endo_mem"
)  # fmt: skip
BRIGHT = ("cyto", "ecs", "er_lum", "golgi_lum")
# Of larger crops, only the middle is read.
MAX_COMPARED_VOXELS = 128**3
MIN_VOXELS = 100
# Smaller differences between membranes and their surroundings, in standard deviations of raw, do
# not tell the contrast.
MIN_DIFFERENCE_STD = 0.2


def warn_of_inverted_contrast(
    crops: Sequence[CropData], volumes: Mapping[str, VolumeStatistics]
) -> list[str]:
    """Warn of raw whose membranes are brighter than the rest, unlike in other raw, or vice versa.

    Parameters
    ----------
    crops
        Labeled crops.
    volumes
        Statistics of their raw volumes, by path.

    Returns
    -------
    The warnings, which are logged, too.
    """
    differences = defaultdict(list)
    for crop in crops:
        measured = volumes[str(crop.raw_path)].get(crop.raw.level_for(crop.voxel_size).path.name)
        difference = membrane_brightness(crop)
        if measured and difference is not None:
            differences[str(crop.raw_path)].append(difference / measured.std)
    medians = {path: float(np.median(found)) for path, found in differences.items()}
    brighter = [path for path, median in medians.items() if median > MIN_DIFFERENCE_STD]
    darker = [path for path, median in medians.items() if median < -MIN_DIFFERENCE_STD]
    # If as many volumes differ either way, dark membranes are the usual ones.
    unusual, usual, side = brighter, darker, "brighter"
    if len(brighter) > len(darker):
        unusual, usual, side = darker, brighter, "darker"
    warnings = [
        f"{path}: its membranes are {side} than the cytosol, the lumen or the outside of cells, "
        f"other than those of {len(usual)} volumes: if its contrast is inverted, invert it, or "
        "leave its crops out"
        for path in unusual
        if usual
    ]
    for line in warnings:
        log.warning("%s", line)
    return warnings


def membrane_brightness(crop: CropData) -> float | None:
    """Mean raw (0..1) of membranes minus that of bright classes; None if any is missing."""
    membranes, bright = ([c for c in names if c in crop.annotated] for names in (MEMBRANES, BRIGHT))
    if not (membranes and bright):
        return None
    box = central_box(crop.grid, MAX_COMPARED_VOXELS)
    in_membranes = _labeled(crop, membranes, box)
    in_bright = _labeled(crop, bright, box) & ~in_membranes
    if min(np.count_nonzero(in_membranes), np.count_nonzero(in_bright)) < MIN_VOXELS:
        return None
    if not crop.raw.inside(box).all():
        return None
    raw = crop.raw.read_raw(box, core=box)
    return float(raw[in_membranes].mean() - raw[in_bright].mean())


def _labeled(crop: CropData, classes: Sequence[str], box: Grid) -> NDArray[np.bool_]:
    """Mark the voxels of a box that belong to any of the classes."""
    found = np.zeros(box.shape, bool)
    for label in classes:
        ids, _ = crop.labels[label].read_nearest(box)
        found |= ids > 0
    return found
