"""Voxels that are annotated as two classes which exclude each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from tqdm import tqdm

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.data.datasplit import LabeledCrop
from cellmap_pipeline.patches.crops import CropData, spread_boxes

# Per crop, about as many voxels are looked at, in boxes that are spread over it.
MAX_CHECKED_VOXELS = 1_000_000
# Voxels at the border of two classes may be annotated as both once they are resampled.
WARN_FRACTION = 0.001


def contradictions(name: str, training: Training, crops: Sequence[LabeledCrop]) -> Iterator[str]:
    """Warn of crops with voxels in two disjoint classes of a training's `hierarchy`.

    Parameters
    ----------
    name
        Name of the training.
    training
        Its settings.
    crops
        Its labeled crops.
    """
    if not training.atoms:
        return
    related = set().union(*training.atoms)
    together = {pair for atom in training.atoms for pair in combinations(sorted(atom), 2)}
    bar = tqdm(crops, desc=f"Comparing labels of {name}", unit="crop", disable=None)
    for crop in bar:
        present = [label for label in crop.present if label in related]
        if len(present) < 2:
            continue
        data = CropData(crop.raw, crop.zarr / crop.labels, present, training.voxel_size)
        n_checked, both = _count_pairs(data)
        for pair, n_voxels in both.items():
            if pair not in together and n_voxels > WARN_FRACTION * n_checked:
                yield (
                    f"training {name}: {crop.name}: {n_voxels / n_checked:.1%} of its voxels are "
                    f"annotated as both {' and '.join(pair)}, which exclude each other by its "
                    "`hierarchy`: these voxels teach none of its classes"
                )


def _count_pairs(crop: CropData) -> tuple[int, Counter[tuple[str, str]]]:
    """Count the voxels that are looked at, and those of each pair of classes that share some."""
    both: Counter[tuple[str, str]] = Counter()
    n_checked = 0
    for start, shape in spread_boxes(crop.grid.shape, MAX_CHECKED_VOXELS):
        box = crop.grid.box(start, shape)
        n_checked += box.size
        inside = {label: crop.labels[label].read(box)[0] > 0 for label in sorted(crop.annotated)}
        for first, second in combinations(inside, 2):
            both[first, second] += int(np.count_nonzero(inside[first] & inside[second]))
    return n_checked, both
