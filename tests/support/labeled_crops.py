"""Labeled crops without files."""

from pathlib import Path

import numpy as np

from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.geometry import Grid


def make_labeled_crop(number, present, start=0.0, dataset="a"):
    """Return a crop of 80 nm along each axis that begins at `start` nm along z."""
    grid = Grid((8, 8, 8), (start, 0, 0), (10, 10, 10))
    return LabeledCrop(dataset, number, Path("a.zarr"), "raw", f"crop{number}", grid, present)


def as_crops(mock, rows):
    """Return the crops that `mock.make_challenge` would write, without writing them."""
    crops = {}
    for row, share in zip(rows, mock.present_shares(rows), strict=True):
        crop = crops.setdefault(
            row.crop, LabeledCrop(row.dataset, row.crop, "z", "raw", "lab", row.grid, {})
        )
        voxels = round(share * row.grid.size)
        crop.present[row.label] = voxels * float(np.prod(row.grid.voxel_size))
    return list(crops.values())
