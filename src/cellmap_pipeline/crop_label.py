"""A label of a test crop: a row of the manifest, and its plain form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellmap_pipeline.geometry import Grid


@dataclass(frozen=True)
class CropLabel:
    """One row: the grid on which `label` of test crop `crop` of `dataset` is asked for."""

    crop: int
    dataset: str
    label: str
    grid: Grid


def crop_label(settings: Mapping[str, Any]) -> CropLabel:
    """The manifest row that `row_settings` was made of."""
    grid = Grid(settings["voxel_size"], settings["translation"], settings["shape"])
    return CropLabel(settings["crop"], settings["dataset"], settings["label"], grid)


def row_settings(row: CropLabel) -> dict[str, Any]:
    """A manifest row in plain builtins."""
    return {
        "crop": row.crop,
        "dataset": row.dataset,
        "label": row.label,
        "voxel_size": list(row.grid.voxel_size),
        "translation": list(row.grid.translation),
        "shape": list(row.grid.shape),
    }
