"""Facts about an exported network, for the model card and other descriptions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.export.forms import FORMS, Written
from cellmap_pipeline.export.raw_kind import RawKind
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.patches.crops import CropData


@dataclass(frozen=True)
class ModelFacts:
    """Facts about an exported network.

    Attributes
    ----------
    name
        Name of the network: that of its training, with the fold if it has folds.
    training
        The settings that it was trained with.
    channels
        Names of its channels, in order.
    window
        Voxels (z, y, x) of the windows that `predict` uses.
    free_axes
        Of the axes z, y, x, those along which torch.export and ONNX take other windows, with the
        smallest size and the step, in voxels.
    context
        Voxels (z, y, x) at each side of a window that `predict` weighs little, as its neighbors
        cover them better.
    raw
        How the raw that it takes is stored and normalized.
    dataset
        The dataset that `raw` describes.
    input_scaling
        Center and scale by which standardized raw becomes network input.
    steps
        Optimizer steps of the training.
    parameters
        Number of weights.
    checkpoint_sha256
        Digest of the checkpoint.
    crops
        By `train` and `validate`, the number of crops by dataset.
    scores
        Content of the training's `validation/scores.json`, if there is one.
    is_fold
        Whether the network is one of several folds, which `scores` are of together.
    averaged
        How `predict` averages, if it predicts with more than this network in one pass.
    license
        SPDX identifier; None if none is stated.
    authors
        Names.
    written
        The forms that were written.
    """

    name: str
    training: Training
    channels: Sequence[str]
    window: Shape
    free_axes: Mapping[str, tuple[int, int]]
    context: Shape
    raw: RawKind
    dataset: str
    input_scaling: tuple[float, float]
    steps: int
    parameters: int
    checkpoint_sha256: str
    crops: Mapping[str, Mapping[str, int]]
    scores: Mapping[str, Any] | None
    is_fold: bool
    averaged: str | None
    license: str | None
    authors: Sequence[str]
    written: Sequence[Written]

    @property
    def architecture(self) -> str:
        """Name of the network's architecture."""
        return str(self.training.model["architecture"])

    @property
    def voxel_size_text(self) -> str:
        """Voxel size (z, y, x) in words."""
        return f"{' × '.join(f'{v:g}' for v in self.training.voxel_size)} nm"

    @property
    def summary(self) -> str:
        """One sentence that describes the network."""
        labels = self.training.classes
        named = ", ".join(labels) if len(labels) <= 8 else f"{len(labels)} classes"
        return (
            f"Segments {named} in electron-microscopy volumes of {self.voxel_size_text}; "
            "takes stored intensities and returns probabilities"
        )

    def file_of(self, form: str) -> str | None:
        """Name of the file of a form; None if it was not written."""
        return next((FORMS[form].file for w in self.written if w.form == form), None)


def crops_by_dataset(crops: Mapping[str, Sequence[CropData]]) -> dict[str, dict[str, int]]:
    """Count the crops that train and validate, by dataset."""
    return {
        usage: dict(sorted(Counter(crop.dataset for crop in used).items()))
        for usage, used in crops.items()
    }


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
