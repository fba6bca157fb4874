"""A label of a test crop: one row of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellmap_pipeline.geometry import Grid


@dataclass(frozen=True)
class CropLabel:
    """A label of a test crop that the challenge asks for.

    Attributes
    ----------
    crop
        Number of the test crop.
    dataset
        Name of its dataset.
    label
        Name of the class.
    grid
        Grid on which the label is submitted.
    """

    crop: int
    dataset: str
    label: str
    grid: Grid


def crop_label(settings: Mapping[str, Any]) -> CropLabel:
    """Return the manifest row that `row_settings` describes."""
    grid = Grid(settings["voxel_size"], settings["translation"], settings["shape"])
    return CropLabel(settings["crop"], settings["dataset"], settings["label"], grid)


def row_settings(row: CropLabel) -> dict[str, Any]:
    """Return a manifest row as a JSON-serializable dict."""
    return {
        "crop": row.crop,
        "dataset": row.dataset,
        "label": row.label,
        "voxel_size": list(row.grid.voxel_size),
        "translation": list(row.grid.translation),
        "shape": list(row.grid.shape),
    }
