"""Requests to fetch the data of one crop, as they are handed to its job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cellmap_pipeline.data.margins import RawMargins
from cellmap_pipeline.geometry import Grid, Vector, shape_of


@dataclass(frozen=True)
class TeacherUse:
    """The use of the raw around a training crop by the network that teaches the training.

    Attributes
    ----------
    voxel_size
        Voxel size of the teacher, nm.
    margins
        Decide on the raw around the crop.
    """

    voxel_size: Vector
    margins: RawMargins


@dataclass(frozen=True)
class TrainUse:
    """The use of a crop by a training that trains or validates on it.

    Attributes
    ----------
    voxel_size
        Voxel size of the training, nm.
    classes
        Classes of the training.
    margins
        Decide on the raw around the crop.
    ground_truth
        By label, the voxel sizes (nm) at which validation asks for its ground truth.
    teacher
        The use by the training's teacher, if any.
    """

    voxel_size: Vector
    classes: tuple[str, ...]
    margins: RawMargins
    ground_truth: Mapping[str, Sequence[Vector]] = field(default_factory=dict)
    teacher: TeacherUse | None = None


@dataclass(frozen=True)
class PredictUse:
    """The use of a test crop by a training that predicts it.

    Attributes
    ----------
    voxel_size
        Voxel size of the training, nm.
    extent
        Bounding box of the predicted labels.
    margins
        Decide on the raw around the crop.
    """

    voxel_size: Vector
    extent: Grid
    margins: RawMargins


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
            "train": [
                {
                    "voxel_size": list(use.voxel_size),
                    "classes": list(use.classes),
                    "margins": _plain(use.margins),
                    "ground_truth": {
                        label: [list(size) for size in sizes]
                        for label, sizes in use.ground_truth.items()
                    },
                    "teacher": _plain_teacher(use.teacher),
                }
                for use in self.train
            ],
            "predict": [
                {
                    "voxel_size": list(use.voxel_size),
                    "extent": {
                        "voxel_size": list(use.extent.voxel_size),
                        "translation": list(use.extent.translation),
                        "shape": list(use.extent.shape),
                    },
                    "margins": _plain(use.margins),
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
            tuple(
                TrainUse(
                    tuple(use["voxel_size"]),
                    tuple(use["classes"]),
                    _margins(use["margins"]),
                    {
                        label: tuple(tuple(size) for size in sizes)
                        for label, sizes in use["ground_truth"].items()
                    },
                    _teacher(use["teacher"]),
                )
                for use in plain["train"]
            ),
            tuple(
                PredictUse(
                    tuple(use["voxel_size"]), Grid(**use["extent"]), _margins(use["margins"])
                )
                for use in plain["predict"]
            ),
        )


def _plain_teacher(use: TeacherUse | None) -> dict[str, Any] | None:
    if use is None:
        return None
    return {"voxel_size": list(use.voxel_size), "margins": _plain(use.margins)}


def _teacher(plain: Mapping[str, Any] | None) -> TeacherUse | None:
    if plain is None:
        return None
    return TeacherUse(tuple(plain["voxel_size"]), _margins(plain["margins"]))


def _plain(margins: RawMargins) -> dict[str, list[int]]:
    return {name: list(sizes) for name, sizes in asdict(margins).items()}


def _margins(plain: Mapping[str, Sequence[int]]) -> RawMargins:
    return RawMargins(**{name: shape_of(sizes) for name, sizes in plain.items()})
