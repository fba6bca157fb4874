"""Which crops train a network and which validate it.

A datasplit is the challenge's CSV without header: usage, raw zarr, raw dataset, label zarr,
label dataset with the classes in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellmap_pipeline.data.balancing import balanced_choice
from cellmap_pipeline.data.datasplit_csv import (
    LabelledCrop,
    read_datasplit,
    write_datasplit,
    write_summary,
)
from cellmap_pipeline.data.layout import RAW, crop_folders, raw_path
from cellmap_pipeline.errors import InputError, did_you_mean, gathered, raise_all
from cellmap_pipeline.geometry import Vector
from cellmap_pipeline.io.labels import LabelVolume, present_voxels
from cellmap_pipeline.io.storage import Location, volumes_in

# Labels up to this much coarser than a training's voxels still teach it something.
COARSEST_FACTOR = 1.25
# Of the crops that are there, so many are listed where another one is named.
MOST_NAMED = 20


@dataclass(frozen=True)
class SplitSettings:
    """What a datasplit depends on: the keys of a training's file of the same names."""

    classes: Sequence[str]
    voxel_size: Vector
    datasets: Sequence[str] | None = None
    crops: Sequence[int] | None = None
    validation_fraction: float = 0.15
    seed: int = 0


def make_datasplit(
    data_root: Path, settings: SplitSettings, own: Path | None, output: Path, summary: Path
) -> None:
    """Write the datasplit of a training, and per class what each side holds.

    Parameters
    ----------
    own
        A CSV of the user's, in any of its forms, to take instead of splitting.

    Raises
    ------
    InputError
        See `make_crops`, `split` and `read_datasplit`.
    """
    crops = make_crops(data_root, settings, own)
    if own is None:
        usage = split(crops, settings)
    else:
        usage = [use for use, *_ in read_datasplit(own, settings.classes)]
    write_datasplit(output, crops, usage, settings.classes)
    write_summary(summary, crops, usage, settings.classes)


def make_crops(data_root: Path, settings: SplitSettings, own: Path | None) -> list[LabelledCrop]:
    """The crops of a training: those that the data hold, or those of a CSV of the user's.

    Raises
    ------
    InputError
        There is none, or not one that is named, or one that is broken; or a class is annotated
        nowhere (the message lists what there is); or see `read_datasplit`.
    """
    problems: list[str] = []
    crops = look_for_crops(data_root, settings, own, problems)
    raise_all(problems)
    return crops


def look_for_crops(
    data_root: Path, settings: SplitSettings, own: Path | None, problems: list[str]
) -> list[LabelledCrop]:
    """As `make_crops`, but without what is broken, which `problems` gets; it raises the rest."""
    if own is None:
        return _find_crops(data_root, settings, problems)
    rows = read_datasplit(own, settings.classes)
    crops: list[LabelledCrop] = []
    there: set[str] = set()
    for _, raw, folder, annotated in rows:
        if not volumes_in(folder, annotated):
            lack = f"does not exist or holds none of {', '.join(annotated)}"
            problems.append(
                f"labels {folder}: the folder {lack}: correct or remove its row in {own}"
            )
            continue
        labels = _open_labels(folder, annotated, problems)
        if labels:
            with gathered(problems):
                crops.append(crop_at(folder, raw, labels))
        there |= {*labels, *_labels_in(folder)}
    if not problems:
        _check_classes(
            crops, settings.classes, there, f"no crop of {own} holds a labelled voxel of"
        )
    return crops


def _find_crops(
    data_root: Path, settings: SplitSettings, problems: list[str]
) -> list[LabelledCrop]:
    """Crops below `data_root` that annotate a wanted class finely enough."""
    if not data_root.is_dir():
        raise InputError(f"data_root: {data_root} does not exist: set it to the folder of the data")
    crops: list[LabelledCrop] = []
    there: set[str] = set()
    folders = crop_folders(data_root)
    _check_named(folders, settings, data_root)
    for folder in folders:
        number, dataset = int(folder.name.removeprefix("crop")), folder.parents[4].name
        if settings.datasets is not None and dataset not in settings.datasets:
            continue
        if settings.crops is not None and number not in settings.crops:
            continue
        there |= _labels_in(folder)
        opened = _open_labels(folder, settings.classes, problems)
        labels = {label: opened[label] for label in opened if _fine_enough(opened[label], settings)}
        if labels:
            beside = folder.parents[2] / RAW
            raw = beside if beside.is_dir() else raw_path(data_root, dataset)
            with gathered(problems):
                crops.append(crop_at(folder, raw, labels))
    if not problems:
        _check_classes(
            crops, settings.classes, there, f"no crop below {data_root} holds, at "
            f"{list(settings.voxel_size)} nm or finer, a labelled voxel of",
        )  # fmt: skip
    return crops


def _check_named(folders: Sequence[Path], settings: SplitSettings, data_root: Path) -> None:
    """Refuse datasets and crops that are not among folders of crops."""
    for dataset in settings.datasets or ():
        there = sorted({folder.parents[4].name for folder in folders})
        if dataset not in there:
            raise InputError(
                f"`datasets`: {data_root} has no crops of {dataset}{did_you_mean(dataset, there)}, "
                f"only of {', '.join(there) or 'nothing'}: correct the name, or copy them there"
            )
    numbers = sorted({int(folder.name.removeprefix("crop")) for folder in folders})
    for crop in settings.crops or ():
        if crop not in numbers:
            more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
            listed = ", ".join(map(str, numbers[:MOST_NAMED])) or "none"
            raise InputError(
                f"`crops`: there is no crop {crop} below {data_root}, only {listed}{more}: correct "
                "the number, or copy the crop there"
            )


def split(crops: Sequence[LabelledCrop], settings: SplitSettings) -> list[str]:
    """`train` or `validate` for each crop.

    Each class that occurs in two crops or more occurs on both sides, and the share of its
    labelled volume that validates is as near `validation_fraction` as the crops allow. Crops that
    overlap stay together. The same for the same crops and seed.

    Raises
    ------
    InputError
        There are fewer than two crops that do not overlap.
    """
    groups = _overlapping(crops)
    n = max(groups) + 1
    if n < 2:
        raise InputError(
            f"a split needs two labelled crops that do not overlap; there is {n} for "
            f"{', '.join(settings.classes)}: see `datasets` and `crops` in the training's file"
        )
    volume = np.zeros((n, len(settings.classes)))
    for crop, group in zip(crops, groups, strict=True):
        volume[group] += [crop.present.get(label, 0.0) for label in settings.classes]
    volume = volume[:, volume.any(axis=0)]
    chosen = balanced_choice(volume, settings.validation_fraction, settings.seed)
    return ["validate" if chosen[group] else "train" for group in groups]


def crop_at(folder: Location, raw: Location, labels: Mapping[str, LabelVolume]) -> LabelledCrop:
    """The crop whose `labels` lie in `folder`."""
    present = {}
    for label, volume in labels.items():
        voxel = float(np.prod(volume.volume.levels[0].grid.voxel_size))
        present[label] = present_voxels(volume) * voxel
    zarr = next((path for path in folder.parents if path.name.endswith(".zarr")), folder.parent)
    return LabelledCrop(
        dataset=Path(zarr.name).stem,
        crop=int(re.sub(r"\D", "", folder.name) or 0),
        zarr=zarr,
        raw=_raw_in(zarr, raw),
        labels=str(folder).removeprefix(f"{zarr}/"),
        grid=next(iter(labels.values())).volume.levels[0].grid,
        present=present,
    )


def _open_labels(
    folder: Location, classes: Sequence[str], problems: list[str]
) -> dict[str, LabelVolume]:
    """Those of `classes` whose labels lie in `folder`, as `{class}`; `problems` gets what fails."""
    opened = {}
    for label in volumes_in(folder, classes):
        try:
            opened[label] = LabelVolume.open(folder / label)
        except InputError as error:
            problems.append(str(error))
    return opened


def _raw_in(zarr: Location, raw: Location) -> str:
    """What the raw is called in a datasplit beside `zarr`: its path in it, or where else it is."""
    if str(raw).startswith(f"{zarr}/"):
        return str(raw).removeprefix(f"{zarr}/")
    return str(raw.absolute() if isinstance(raw, Path) else raw)


def _fine_enough(label: LabelVolume, settings: SplitSettings) -> bool:
    """Whether a training can learn from a label's voxels."""
    return all(
        own <= COARSEST_FACTOR * wanted
        for own, wanted in zip(label.volume.finest, settings.voxel_size, strict=True)
    )


def _labels_in(folder: Location) -> set[str]:
    """The classes that a crop in a folder of this machine annotates, at whatever voxel size."""
    if not isinstance(folder, Path):
        return set()
    return {path.name for path in folder.iterdir() if path.is_dir()}


def _check_classes(
    crops: Sequence[LabelledCrop], classes: Sequence[str], there: set[str], lacks: str
) -> None:
    """Refuse crops without a labelled voxel of a class; `lacks` begins the sentence."""
    lacking = [c for c in classes if not any(crop.present.get(c) for crop in crops)]
    if lacking:
        raise InputError(
            f"{lacks} {', '.join(lacking)}: leave it out of `classes`, or see `datasets`, `crops` "
            f"and `voxel_size`; the crops annotate: {', '.join(sorted(there)) or 'nothing'}"
        )


def _overlapping(crops: Sequence[LabelledCrop]) -> list[int]:
    """A group number per crop: crops of a dataset that overlap, however indirectly, share it."""
    groups = list(range(len(crops)))
    for i, crop in enumerate(crops):
        for j in range(i):
            if crop.dataset == crops[j].dataset and crop.grid.overlaps(crops[j].grid):
                old, new = groups[i], groups[j]
                groups = [new if group == old else group for group in groups]
    numbers = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    return [numbers[group] for group in groups]
