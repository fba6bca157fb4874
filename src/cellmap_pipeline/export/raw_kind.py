"""The raw that a network is exported for, and an example window of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape, intersection
from cellmap_pipeline.io.volumes import max_intensity
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.normalization import Normalization


@dataclass(frozen=True)
class RawKind:
    """How raw is stored and normalized, as far as a network depends on it.

    Attributes
    ----------
    dtype
        Name of the stored type.
    max_intensity
        The stored value that counts as 1.
    normalization
        How raw in 0..1 is normalized.
    """

    dtype: str
    max_intensity: float
    normalization: Normalization

    @classmethod
    def of(cls, crop: CropData) -> RawKind:
        """Return the kind of a crop's raw.

        Raises
        ------
        InputError
            Its raw cannot be read, or there are no statistics of it.
        """
        level = crop.raw.level_for(crop.voxel_size)
        dtype = level.metadata.dtype
        return cls(dtype.name, max_intensity(dtype, level.path), crop.normalization)

    def standardize(self, stored: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert stored intensities to standardized raw, in the way that `predict` does."""
        return self.normalization.standardize(stored / np.float32(self.max_intensity))


def choose_crop(crops: Sequence[CropData], dataset: str | None, normalize: str) -> CropData:
    """Choose the crop whose raw a network is exported for: the first one.

    Parameters
    ----------
    crops
        Crops of the training.
    dataset
        The dataset to choose from; None takes any, if all raw is stored and normalized alike.
    normalize
        `normalize` of the training's file.

    Raises
    ------
    InputError
        There is no such dataset, one must be named, or the raw volumes of one differ.
    """
    datasets = sorted({crop.dataset for crop in crops})
    if dataset is not None:
        crops = [crop for crop in crops if crop.dataset == dataset]
        if not crops:
            raise InputError(
                f"--dataset: the training has no crop of {dataset!r}; choose one of "
                f"{', '.join(datasets)}"
            )
    by_raw = {str(crop.raw_path): crop for crop in crops}
    if len({RawKind.of(crop) for crop in by_raw.values()}) > 1:
        how = (
            f"stored or normalized (`normalize: {normalize}`) in different ways, of which an "
            "exported network holds one"
        )
        if dataset is None and len(datasets) > 1:
            raise InputError(
                f"the raw of the training's datasets is {how}: name the dataset most like the raw "
                f"to predict with --dataset, one of {', '.join(datasets)}"
            )
        raise InputError(
            f"the raw volumes of dataset {crops[0].dataset} ({', '.join(by_raw)}) are {how}: "
            "export a training that has crops of one of them"
        )
    return crops[0]


def read_example(crop: CropData, window: Shape) -> NDArray[np.float32]:
    """Read a window of raw (z, y, x) in the middle of a crop, mirrored where there is none.

    Returns
    -------
    Stored intensities at the training's voxel size, rounded where the stored type is.

    Raises
    ------
    InputError
        Raw is missing in the crop.
    """
    start = [(n - w) // 2 for n, w in zip(crop.grid.shape, window, strict=True)]
    box = crop.grid.box(start, window)
    level = crop.raw.level_for(crop.voxel_size)
    dtype = level.metadata.dtype
    stored = crop.raw.read_raw(box, core=intersection(box, crop.grid))
    stored *= np.float32(max_intensity(dtype, level.path))
    return stored if dtype.kind == "f" else np.rint(stored)
