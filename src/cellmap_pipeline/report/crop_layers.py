"""What there is to see of a crop: raw, truth, labels and probabilities, as far as they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cellmap_pipeline.channels import class_of
from cellmap_pipeline.classes import in_order
from cellmap_pipeline.config.run import RunConfig
from cellmap_pipeline.data.layout import crop_folders, raw_path
from cellmap_pipeline.data.manifest import local_manifest, read_manifest
from cellmap_pipeline.errors import InputError

Kind = Literal["truth", "labels", "probability"]
KINDS: tuple[Kind, ...] = ("truth", "labels", "probability")


@dataclass(frozen=True)
class CropLayer:
    """A volume of a crop.

    Attributes
    ----------
    channel
        Its class, or a further channel of one (`classes.FURTHER`).
    source
        Who made it: `truth`, `labels`, or in brackets a training or the name of predictions.
    """

    kind: Kind
    channel: str
    source: str
    path: Path

    @property
    def label(self) -> str:
        """The class that it is about."""
        return class_of(self.channel)

    @property
    def name(self) -> str:
        """What it is called, such as `mito labels`."""
        return f"{self.channel} {self.source}"


@dataclass(frozen=True)
class CropLayers:
    """All volumes of a crop, class by class; `raw` is where its dataset's raw should lie."""

    crop: int
    dataset: str
    raw: Path
    layers: list[CropLayer] = field(default_factory=list)

    def of(self, kind: Kind) -> list[CropLayer]:
        """The volumes of a kind."""
        return [layer for layer in self.layers if layer.kind == kind]


def find_layers(run: RunConfig, crop: int, classes: Sequence[str] = ()) -> CropLayers:
    """Look for the volumes of a test crop, or of a labelled crop.

    Parameters
    ----------
    run
        The run's configuration.
    crop
        Its number.
    classes
        Only those; none: all.

    Raises
    ------
    InputError
        There is no such crop, nothing of it is made yet, or nothing of these classes.
    """
    dataset, truth, labels = _place(run, crop)
    output = Path(run.output)
    found = [
        *_in_folder("truth", truth, "truth"),
        *_in_folder("labels", output / f"segmentations/{dataset}/crop{crop}", "labels"),
    ]
    for training in run.trainings:
        for folder in ("predictions", "validation/predictions"):
            path = output / training / folder / dataset / f"crop{crop}"
            found += _in_folder("probability", path, f"({training})")
    for name, elsewhere in run.predictions.items():
        for label in labels:
            path = Path(elsewhere.path.format(dataset=dataset, crop=crop, label=label))
            if path.is_dir():
                found.append(CropLayer("probability", label, f"({name})", path))
    if not found:
        raise InputError(_nothing(run, crop))
    there = in_order(list(dict.fromkeys(layer.label for layer in found)))
    unknown = [label for label in classes if label not in there]
    if unknown:
        raise InputError(
            f"crop {crop} has nothing of {', '.join(unknown)}; there is: {', '.join(there)}"
        )
    layers = [
        layer
        for label in classes or there
        for kind in KINDS
        for layer in found
        if (layer.label, layer.kind) == (label, kind)
    ]
    return CropLayers(crop, dataset, raw_path(run.data_root, dataset), layers)


def _place(run: RunConfig, crop: int) -> tuple[str, Path | None, list[str]]:
    """A crop's dataset, the folder of its true labels where they are known, and its labels."""
    rows = read_manifest(local_manifest(run.test_crops, Path(run.output) / "inputs"))
    test_crops = {row.crop: row.dataset for row in rows}
    if crop in test_crops:
        truth = Path(run.ground_truth) / f"crop{crop}" if run.ground_truth else None
        return test_crops[crop], truth, [row.label for row in rows if row.crop == crop]
    labelled = crop_folders(run.data_root, crop)
    if labelled:
        folder = labelled[0]
        return folder.parents[4].name, folder, sorted(path.name for path in folder.iterdir())
    numbers = sorted({int(path.name[4:]) for path in crop_folders(run.data_root)})
    raise InputError(
        f"there is no crop {crop}: test crops ({run.test_crops}) are "
        f"{', '.join(map(str, sorted(test_crops)))}; crops with labels below {run.data_root} are "
        f"{', '.join(map(str, numbers)) or 'none'}"
    )


def _in_folder(kind: Kind, folder: Path | None, source: str) -> Iterator[CropLayer]:
    """The volumes in a folder, those of further channels after their class's own."""
    if folder is not None and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if (path / ".zattrs").is_file() and path.suffix != ".partial":
                yield CropLayer(kind, path.name, source, path)


def _nothing(run: RunConfig, crop: int) -> str:
    begun = sorted(Path(run.output).glob(f"*/predictions/*/crop{crop}.*partial"))
    if begun:
        return f"nothing of crop {crop} is complete yet; {begun[0]} is being made"
    return (
        f"nothing of crop {crop} is made yet in {run.output}: "
        f"`cellmap-pipeline run crop{crop}` predicts it"
    )
