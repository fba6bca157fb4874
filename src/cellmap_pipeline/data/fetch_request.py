"""Requests to fetch the data of one crop, as they are handed to its job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellmap_pipeline.geometry import Grid, Shape, Vector, shape_of


@dataclass(frozen=True)
class Reach:
    """How far beyond a crop a training reads raw, in its voxels (z, y, x).

    Attributes
    ----------
    patch
        Patches to train on. Along each axis a patch lies in the crop, or the crop in the patch.
    patch_margin
        Read on each side of a patch to rotate it.
    window
        Windows that predict. A crop smaller than a window lies in its middle.
    context
        Read on each side of a crop that is predicted.
    """

    patch: Shape = (0, 0, 0)
    patch_margin: Shape = (0, 0, 0)
    window: Shape = (0, 0, 0)
    context: Shape = (0, 0, 0)

    def beyond_trained(self, shape: Shape) -> Shape:
        """Voxels that are read at most on each side of a crop of `shape` to train on it."""
        sides = zip(shape, self.patch, self.patch_margin, strict=True)
        return shape_of(max(0, patch - n) + margin for n, patch, margin in sides)

    def beyond_predicted(self, shape: Shape) -> Shape:
        """Voxels that are read at most on each side of a crop of `shape` to predict it."""
        sides = zip(shape, self.window, self.context, strict=True)
        return shape_of(max(context, -(-(window - n) // 2)) for n, window, context in sides)

    def to_dict(self) -> dict[str, list[int]]:
        """Return the reach as a JSON-serializable dict."""
        return {name: list(value) for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Reach:
        """Return the reach that `to_dict` made `plain` of."""
        return cls(**{name: shape_of(value) for name, value in plain.items()})


@dataclass(frozen=True)
class TrainUse:
    """The use of a crop by a training that trains or validates on it.

    Attributes
    ----------
    voxel_size
        Voxel size of the training, nm.
    classes
        Classes of the training.
    reach
        How far beyond the crop it reads raw.
    truth_sizes
        Classes with the voxel sizes (nm) at which test crops ask for them: validation compares with
        the ground truth nearest to these.
    """

    voxel_size: Vector
    classes: tuple[str, ...]
    reach: Reach = Reach()
    truth_sizes: tuple[tuple[str, tuple[Vector, ...]], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the use as a JSON-serializable dict."""
        return {
            "voxel_size": list(self.voxel_size),
            "classes": list(self.classes),
            "reach": self.reach.to_dict(),
            "truth_sizes": [[label, list(map(list, sizes))] for label, sizes in self.truth_sizes],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TrainUse:
        """Return the use that `to_dict` made `plain` of."""
        return cls(
            tuple(plain["voxel_size"]),
            tuple(plain["classes"]),
            Reach.from_dict(plain["reach"]),
            tuple((label, tuple(map(tuple, sizes))) for label, sizes in plain["truth_sizes"]),
        )


@dataclass(frozen=True)
class PredictUse:
    """The use of a test crop by a training that predicts it.

    Attributes
    ----------
    voxel_size
        Voxel size of the training, nm.
    extent
        Bounding box of the predicted labels.
    reach
        How far beyond it raw is read.
    """

    voxel_size: Vector
    extent: Grid
    reach: Reach = Reach()


@dataclass(frozen=True)
class FetchRequest:
    """The location of a crop, and its uses, which decide what is fetched of it.

    Attributes
    ----------
    dataset
        Name of the crop's dataset.
    labels
        Path or URL of the folder of its labels; None for test crops.
    raw
        Path or URL of its raw.
    train
        Uses by trainings that train or validate on it.
    predict
        Uses by trainings that predict it.
    """

    dataset: str
    labels: str | None
    raw: str
    train: tuple[TrainUse, ...] = ()
    predict: tuple[PredictUse, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the request as a JSON-serializable dict."""
        return {
            "dataset": self.dataset,
            "labels": self.labels,
            "raw": self.raw,
            "train": [use.to_dict() for use in self.train],
            "predict": [
                {
                    "voxel_size": list(use.voxel_size),
                    "extent": {
                        "voxel_size": list(use.extent.voxel_size),
                        "translation": list(use.extent.translation),
                        "shape": list(use.extent.shape),
                    },
                    "reach": use.reach.to_dict(),
                }
                for use in self.predict
            ],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> FetchRequest:
        """Return the request that `to_dict` made `plain` of."""
        return cls(
            plain["dataset"],
            plain["labels"],
            plain["raw"],
            tuple(map(TrainUse.from_dict, plain["train"])),
            tuple(
                PredictUse(
                    tuple(use["voxel_size"]), Grid(**use["extent"]), Reach.from_dict(use["reach"])
                )
                for use in plain["predict"]
            ),
        )
