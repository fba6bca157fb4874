"""The volumes of a crop that exist so far: raw, ground truth, labels and probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cellmap_pipeline.channels import class_of
from cellmap_pipeline.classes import in_class_order
from cellmap_pipeline.config.run import RunConfig
from cellmap_pipeline.data.layout import crop_folders, raw_path
from cellmap_pipeline.data.manifest import local_manifest, read_manifest
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.files import PARTIAL_SUFFIX
from cellmap_pipeline.io.storage import ZARR_FILES, present
from cellmap_pipeline.plan.folds import fold_network
from cellmap_pipeline.plan.paths import ResultPaths

Kind = Literal["truth", "labels", "probability"]
KINDS: tuple[Kind, ...] = ("truth", "labels", "probability")


@dataclass(frozen=True)
class CropLayer:
    """A volume of a crop.

    Attributes
    ----------
    kind
        Whether it holds ground truth, final labels or a probability.
    channel
        Its class, or an auxiliary channel of a class (`channels.AUXILIARY_SUFFIXES`).
    source
        Its origin: `ground truth`, `labels`, or in brackets the name of a training or of external
        predictions.
    path
        Folder of the volume.
    """

    kind: Kind
    channel: str
    source: str
    path: Path

    @property
    def label(self) -> str:
        """The class of the channel."""
        return class_of(self.channel)

    @property
    def name(self) -> str:
        """The name for display, such as `mito labels`."""
        return f"{self.channel} {self.source}"


@dataclass(frozen=True)
class CropLayers:
    """All volumes of a crop.

    Attributes
    ----------
    crop
        Number of the crop.
    dataset
        Its dataset.
    raw
        Path of the dataset's raw volume, which may be missing.
    layers
        The other volumes, class by class.
    """

    crop: int
    dataset: str
    raw: Path
    layers: list[CropLayer] = field(default_factory=list)

    def of_kind(self, kind: Kind) -> list[CropLayer]:
        """The volumes of a kind."""
        return [layer for layer in self.layers if layer.kind == kind]


def find_layers(run: RunConfig, crop: int, classes: Sequence[str] = ()) -> CropLayers:
    """Find the volumes of a test crop or of a labeled crop.

    Parameters
    ----------
    run
        The run's configuration.
    crop
        Number of the crop.
    classes
        Classes to find; all if empty.

    Raises
    ------
    InputError
        The crop does not exist, or it has no volumes yet, or none of these classes.
    """
    dataset, truth, labels = _locate(run, crop)
    paths = ResultPaths(Path(run.output))
    segmentations = paths.segmentations / dataset / f"crop{crop}"
    found = [
        *_layers_in("truth", truth, "ground truth"),
        *_layers_in("labels", segmentations, "labels"),
    ]
    for training in run.trainings:
        networks = [training, *(fold_network(training, i) for i in range(run.split.folds or 0))]
        folders = [
            paths.predictions(training, dataset, crop),
            *(paths.validation_predictions(n) / dataset / f"crop{crop}" for n in networks),
        ]
        # A crop validates a single network; other folders may be left of other settings.
        for folder in [folder for folder in folders if folder.is_dir()][:1]:
            found += _layers_in("probability", folder, f"({training})")
    for name, external in run.predictions.items():
        for label in labels:
            path = Path(external.path.format(dataset=dataset, crop=crop, label=label))
            if path.is_dir():
                found.append(CropLayer("probability", label, f"({name})", path))
    if not found:
        raise InputError(_no_results_message(run, crop))
    available = in_class_order(list(dict.fromkeys(layer.label for layer in found)))
    missing = [label for label in classes if label not in available]
    if missing:
        raise InputError(
            f"crop {crop} has no volumes of {', '.join(missing)}, only of {', '.join(available)}"
        )
    layers = [
        layer
        for label in classes or available
        for kind in KINDS
        for layer in found
        if (layer.label, layer.kind) == (label, kind)
    ]
    return CropLayers(crop, dataset, raw_path(run.data_root, dataset), layers)


def _locate(run: RunConfig, crop: int) -> tuple[str, Path | None, list[str]]:
    """Find a crop's dataset, its ground-truth folder (None if unknown) and its label names."""
    rows = read_manifest(local_manifest(run.test_crops, ResultPaths(Path(run.output)).inputs))
    test_crops = {row.crop: row.dataset for row in rows}
    if crop in test_crops:
        truth = Path(run.ground_truth) / f"crop{crop}" if run.ground_truth else None
        return test_crops[crop], truth, [row.label for row in rows if row.crop == crop]
    labeled = crop_folders(run.data_root, crop)
    if labeled:
        folder = labeled[0]
        return folder.parents[4].name, folder, sorted(path.name for path in folder.iterdir())
    numbers = sorted({int(path.name[4:]) for path in crop_folders(run.data_root)})
    raise InputError(
        f"there is no crop {crop}: the test crops ({run.test_crops}) are "
        f"{', '.join(map(str, sorted(test_crops)))}; the labeled crops in {run.data_root} are "
        f"{', '.join(map(str, numbers)) or 'none'}"
    )


def _layers_in(kind: Kind, folder: Path | None, source: str) -> Iterator[CropLayer]:
    """Find the volumes in a folder; auxiliary channels follow the channel of their class."""
    if folder is not None and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if any(present(path, ZARR_FILES)) and path.suffix != PARTIAL_SUFFIX:
                yield CropLayer(kind, path.name, source, path)


def _no_results_message(run: RunConfig, crop: int) -> str:
    partial = sorted(Path(run.output).glob(f"*/predictions/*/crop{crop}.*partial"))
    if partial:
        return f"crop {crop} has no complete results yet; {partial[0]} is being written"
    return (
        f"crop {crop} has no results in {run.output} yet: "
        f"`cellmap-pipeline run crop{crop}` predicts it"
    )
