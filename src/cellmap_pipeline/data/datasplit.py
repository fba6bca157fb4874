"""The datasplit of a network: which crops train it, and which validate it.

A datasplit is the challenge's CSV without header: usage, raw zarr, raw dataset, label zarr,
label dataset with the classes in brackets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.datasplit_csv import (
    DatasplitRow,
    LabeledCrop,
    container_of,
    crop_number,
    read_datasplit,
    write_datasplit,
    write_summary,
)
from cellmap_pipeline.data.layout import RAW, crop_folders, raw_path
from cellmap_pipeline.data.split import TRAIN, VALIDATE
from cellmap_pipeline.errors import InputError, did_you_mean, gathered, raise_all
from cellmap_pipeline.geometry import Grid, Vector, common_extent
from cellmap_pipeline.io.labels import LabelVolume, present_voxels
from cellmap_pipeline.io.levels import is_as_fine
from cellmap_pipeline.io.storage import Location, volumes_in

# A training uses labels with voxels of up to this factor times its own.
MAX_LABEL_COARSENESS = 1.25
MAX_LISTED_CROPS = 20


@dataclass(frozen=True)
class DatasplitSettings:
    """Settings of a datasplit: keys of the same names of a training's file."""

    classes: Sequence[str]
    voxel_size: Vector
    datasets: Sequence[str] | None = None
    crops: Sequence[int] | None = None
    validation: str = "held_out"


def make_datasplit(
    data_root: Path,
    settings: DatasplitSettings,
    own: Path | None,
    parts: Mapping[str, str],
    fold: int | None,
    output: Path,
    summary: Path,
) -> None:
    """Write the datasplit of a network and its summary per class and dataset.

    Parameters
    ----------
    data_root
        Folder of the datasets.
    settings
        Settings of the datasplit.
    own
        A user's CSV, in any of its forms, to use instead of the run's split.
    parts, fold
        The run's split; see `usage_by_split`.
    output
        Datasplit to write.
    summary
        Summary to write.

    Raises
    ------
    InputError
        See `make_crops`, `usage_by_split` and `read_own_datasplit`.
    """
    crops = make_crops(data_root, settings, own)
    if own is None or settings.validation == "none":
        usage = usage_by_split(crops, settings.validation, parts, fold)
    else:
        usage = [row.usage for row in read_own_datasplit(own, settings.classes)]
    write_datasplit(output, crops, usage, settings.classes)
    write_summary(summary, crops, usage, settings.classes)


def find_labeled_crops(data_root: Path, problems: list[str]) -> list[LabeledCrop]:
    """Find all crops below `data_root` with all their labels, for the run's split.

    Labels that cannot be read are left out; their errors are appended to `problems`.
    """
    crops = []
    for folder in crop_folders(data_root):
        readable = {}
        for label, volume in _open_labels(folder, sorted(_labels_in(folder)), problems).items():
            # A broken label must not keep trainings of other classes from the crop.
            with gathered(problems):
                readable[label] = volume, _present_nm3(volume)
        if readable:
            grid = common_extent([label.volume.levels[0].grid for label, _ in readable.values()])
            present = {label: nm3 for label, (_, nm3) in readable.items()}
            crops.append(_describe_crop(folder, _raw_of(folder, data_root), grid, present))
    return crops


def make_crops(data_root: Path, settings: DatasplitSettings, own: Path | None) -> list[LabeledCrop]:
    """Find the crops of a training, below `data_root` or in a user's CSV.

    Raises
    ------
    InputError
        There are no crops, a named crop is missing, a crop is broken, or a class is annotated
        nowhere (the message lists the annotated classes); or see `read_own_datasplit`.
    """
    problems: list[str] = []
    crops = find_crops(data_root, settings, own, problems)
    raise_all(problems)
    return crops


def find_crops(
    data_root: Path, settings: DatasplitSettings, own: Path | None, problems: list[str]
) -> list[LabeledCrop]:
    """Like `make_crops`, but skip broken crops and append their errors to `problems`."""
    if own is None:
        return _crops_in_folder(data_root, settings, problems)
    return _crops_in_csv(own, settings, problems)


def _crops_in_csv(own: Path, settings: DatasplitSettings, problems: list[str]) -> list[LabeledCrop]:
    """Find the crops of a user's CSV."""
    crops: list[LabeledCrop] = []
    known: set[str] = set()
    validates = settings.validation != "none"
    rows = read_own_datasplit(own, settings.classes, needs_validation=validates)
    problems += _on_both_sides(rows, own)
    problems += _of_one_name(rows, own)
    for _, raw, folder, annotated in rows:
        if not volumes_in(folder, annotated):
            problems.append(
                f"labels {folder}: the folder does not exist or contains none of "
                f"{', '.join(annotated)}: correct or remove its row in {own}"
            )
            continue
        labels = _open_labels(folder, annotated, problems)
        if labels:
            with gathered(problems):
                crops.append(crop_at(folder, raw, labels))
        known |= {*labels, *_labels_in(folder)}
    if not problems:
        _check_classes(crops, settings.classes, known, f"no crop of {own} has a labeled voxel of")
    return crops


def read_own_datasplit(
    own: Path, classes: Sequence[str], needs_validation: bool = True
) -> list[DatasplitRow]:
    """Read the rows of a user's CSV, those of one crop, raw and usage merged into one.

    If no validation is needed, all rows are to train on. `read_datasplit` describes the rest.
    """
    merged: dict[tuple[str, str, str], DatasplitRow] = {}
    for row in read_datasplit(own, classes, needs_validation):
        usage = row.usage if needs_validation else TRAIN
        key = usage, str(row.raw), str(row.labels)
        listed = {*row.classes, *(merged[key].classes if key in merged else ())}
        in_order = [label for label in classes if label in listed]
        merged[key] = row._replace(usage=usage, classes=in_order)
    return list(merged.values())


def _on_both_sides(rows: Sequence[DatasplitRow], own: Path) -> list[str]:
    """Describe crops of a user's CSV that train and validate."""
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault(str(row.labels), set()).add(row.usage)
    return [
        f"{own}: {folder} is listed to train and to validate, so its scores would say nothing: "
        "keep one of its rows"
        for folder, usages in sides.items()
        if len(usages) > 1
    ]


def _of_one_name(rows: Sequence[DatasplitRow], own: Path) -> list[str]:
    """Describe crops to validate on with the same name, by which predictions are stored."""
    known: dict[str, DatasplitRow] = {}
    problems = []
    for row in rows:
        if row.usage != VALIDATE:
            continue
        name = ValidationCrop.of(row.labels).name
        if name in known:
            problems.append(
                f"{own}: two crops to validate on are called {name}, {known[name].labels} (raw: "
                f"{known[name].raw}) and {row.labels} (raw: {row.raw}), so the predictions of one "
                "would replace those of the other: rename the container, or the folder, of one "
                "of them, or remove its row"
            )
        known.setdefault(name, row)
    return problems


def _crops_in_folder(
    data_root: Path, settings: DatasplitSettings, problems: list[str]
) -> list[LabeledCrop]:
    """Find the crops below `data_root` that annotate a wanted class finely enough."""
    if not data_root.is_dir():
        raise InputError(f"data_root: {data_root} does not exist: set it to the folder of the data")
    crops: list[LabeledCrop] = []
    known: set[str] = set()
    folders = crop_folders(data_root)
    _check_named(folders, settings, data_root)
    for folder in folders:
        number, dataset = int(folder.name.removeprefix("crop")), folder.parents[4].name
        if settings.datasets is not None and dataset not in settings.datasets:
            continue
        if settings.crops is not None and number not in settings.crops:
            continue
        known |= _labels_in(folder)
        opened = _open_labels(folder, settings.classes, problems)
        labels = {label: volume for label, volume in opened.items() if _is_usable(volume, settings)}
        if labels:
            with gathered(problems):
                crops.append(crop_at(folder, _raw_of(folder, data_root), labels))
    if not problems:
        _check_classes(
            crops, settings.classes, known, f"no crop below {data_root} has, at "
            f"{list(settings.voxel_size)} nm or finer, a labeled voxel of",
        )  # fmt: skip
    return crops


def _raw_of(folder: Path, data_root: Path) -> Path:
    """Return the raw of a crop: beside its labels, or that of the dataset."""
    own_raw = folder.parents[2] / RAW
    return own_raw if own_raw.is_dir() else raw_path(data_root, folder.parents[4].name)


def _check_named(folders: Sequence[Path], settings: DatasplitSettings, data_root: Path) -> None:
    """Refuse datasets and crops that are not among the folders of crops."""
    for dataset in settings.datasets or ():
        known = sorted({folder.parents[4].name for folder in folders})
        if dataset not in known:
            raise InputError(
                f"`datasets`: {data_root} has no crops of {dataset}{did_you_mean(dataset, known)}, "
                f"only of {', '.join(known) or 'nothing'}: correct the name, or copy them there"
            )
    numbers = sorted({int(folder.name.removeprefix("crop")) for folder in folders})
    for crop in settings.crops or ():
        if crop not in numbers:
            excess = len(numbers) - MAX_LISTED_CROPS
            more = f" and {excess} more" if excess > 0 else ""
            listed = ", ".join(map(str, numbers[:MAX_LISTED_CROPS])) or "none"
            raise InputError(
                f"`crops`: there is no crop {crop} below {data_root}, only {listed}{more}: correct "
                "the number, or copy the crop there"
            )


def usage_by_split(
    crops: Sequence[LabeledCrop], validation: str, parts: Mapping[str, str], fold: int | None
) -> list[str]:
    """Return `train` or `validate` for each crop of a training.

    Parameters
    ----------
    crops
        The training's crops.
    validation
        `validation` of the training's file.
    parts
        Part of each crop in the run's split, by its name; unused where no crop validates.
    fold
        The fold that validates.

    Raises
    ------
    InputError
        A crop is missing in the split, or all crops are on one side.
    """
    if validation == "none":
        return [TRAIN] * len(crops)
    new = [crop.name for crop in crops if crop.name not in parts]
    if new:
        rule = "split" if fold is None else "folds"
        raise InputError(
            f"{len(new)} crops are not in the run's split, such as {new[0]}: they were added or "
            f"repaired after it was made; `--forcerun {rule}` takes them up"
        )
    held_out = VALIDATE if fold is None else str(fold)
    usage = [VALIDATE if parts[crop.name] == held_out else TRAIN for crop in crops]
    for side in (TRAIN, VALIDATE):
        if side not in usage:
            raise InputError(
                f"no crop is left to {side}: the run's split has all that this training uses "
                f"({len(crops)}) on the other side: see its `datasets` and `crops`, or change "
                "`split`"
            )
    return usage


def crop_at(folder: Location, raw: Location, labels: Mapping[str, LabelVolume]) -> LabeledCrop:
    """Describe the crop whose `labels` are in `folder`."""
    grid = common_extent([label.volume.levels[0].grid for label in labels.values()])
    present = {label: _present_nm3(volume) for label, volume in labels.items()}
    return _describe_crop(folder, raw, grid, present)


def _present_nm3(label: LabelVolume) -> float:
    """Estimate the labeled volume, nm³."""
    return present_voxels(label) * float(np.prod(label.volume.levels[0].grid.voxel_size))


def _describe_crop(
    folder: Location, raw: Location, grid: Grid, present: dict[str, float]
) -> LabeledCrop:
    zarr = container_of(folder)
    return LabeledCrop(
        dataset=Path(zarr.name).stem,
        crop=crop_number(folder),
        zarr=zarr,
        raw=raw,
        labels=str(folder).removeprefix(f"{zarr}/"),
        grid=grid,
        present=present,
    )


def _open_labels(
    folder: Location, classes: Sequence[str], problems: list[str]
) -> dict[str, LabelVolume]:
    """Open the labels of `classes` in `folder`; append the errors of broken ones to `problems`."""
    opened = {}
    for label in volumes_in(folder, classes):
        try:
            opened[label] = LabelVolume.open(folder / label)
        except InputError as error:
            problems.append(str(error))
    return opened


def _is_usable(label: LabelVolume, settings: DatasplitSettings) -> bool:
    """Whether a label's voxels are fine enough to train on."""
    return is_as_fine(label.volume.finest_voxel_size, settings.voxel_size, MAX_LABEL_COARSENESS)


def _labels_in(folder: Location) -> set[str]:
    """List the classes that a local crop annotates at any voxel size; none for remote crops."""
    if not isinstance(folder, Path):
        return set()
    return {path.name for path in folder.iterdir() if path.is_dir()}


def _check_classes(
    crops: Sequence[LabeledCrop], classes: Sequence[str], known: set[str], problem: str
) -> None:
    """Refuse crops without a labeled voxel of some class; `problem` begins the message."""
    lacking = [c for c in classes if not any(crop.present.get(c) for crop in crops)]
    if lacking:
        raise InputError(
            f"{problem} {', '.join(lacking)}: leave it out of `classes`, or see `datasets`, "
            f"`crops` and `voxel_size`; the crops annotate: {', '.join(sorted(known)) or 'nothing'}"
        )
