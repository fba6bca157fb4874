"""The split of all labeled crops of a data folder: held-out crops, or folds.

It is made once for a run, from all crops and all classes, so that trainings of different classes
are validated on the same crops and their scores can be compared. Crops that are added later are
assigned without moving the others.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.data.balancing import FREE, balanced_choice
from cellmap_pipeline.data.datasplit_csv import LabeledCrop
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.tables import csv_lines, read_csv_text

TRAIN, VALIDATE = "train", "validate"
COLUMNS = ["dataset", "crop", "part"]


@dataclass(frozen=True)
class SplitSettings:
    """Settings of a split.

    Attributes
    ----------
    validation_fraction
        Fraction to hold out; None: there are folds instead.
    folds
        Number of folds; None: crops are held out instead.
    by
        What stays together: overlapping crops, or all crops of a dataset.
    seed
        Seed of the search.
    test_datasets
        Datasets with test crops, of which crops are held out first.
    """

    validation_fraction: float | None = 0.15
    folds: int | None = None
    by: Literal["crop", "dataset"] = "crop"
    seed: int = 0
    test_datasets: Sequence[str] = ()

    @property
    def description(self) -> str:
        """The settings of which a split is made, in one line.

        Other test datasets alone move no crop.
        """
        size = (
            f"folds {self.folds}"
            if self.folds
            else f"validation_fraction {self.validation_fraction:g}"
        )
        return f"{size}, by {self.by}, seed {self.seed}"


def split_crops(
    crops: Sequence[LabeledCrop], settings: SplitSettings, earlier: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Assign each crop to a part: `train` or `validate`, or the number of a fold from 0.

    Held-out crops: each class of two crops or more is on both sides. The fraction that validates of
    its labeled volume, of the crops of each dataset and of all crops is as close to
    `validation_fraction` as the crops allow. A dataset keeps a training crop unless each has a
    single one, and one with test crops has a validation crop if it has three crops or more.

    Folds: each has about the same share of each class, of each dataset and of all crops.

    Overlapping crops are in the same part. The split is deterministic for the same crops, settings
    and earlier assignments.

    Parameters
    ----------
    crops
        All labeled crops.
    settings
        Settings of the split.
    earlier
        Parts of crops by name, in which they stay.

    Returns
    -------
    Part of each crop, by its name.

    Raises
    ------
    InputError
        There are fewer groups of crops than parts, or a new crop overlaps crops of different parts.
    """
    groups = group_crops(crops, settings.by)
    n = max(groups, default=-1) + 1
    parts = settings.folds or 2
    if n < parts:
        what = "datasets" if settings.by == "dataset" else "labeled crops that do not overlap"
        key = f"split.folds: {settings.folds}" if settings.folds else "a split"
        raise InputError(
            f"{key} needs {parts} {what} or more; there are {n}: add crops, or change `split`"
        )
    kept = _earlier_by_group(crops, groups, earlier or {})
    volume, datasets, names = _amounts(crops, groups)
    if settings.folds:
        of_group = _assign_folds(volume, datasets, kept, settings)
    else:
        assert settings.validation_fraction is not None
        first = np.isin(names, list(settings.test_datasets))
        fixed = np.array([FREE if p is None else p == VALIDATE for p in kept], np.int8)
        chosen = balanced_choice(
            volume, datasets, first, settings.validation_fraction, settings.seed, fixed
        )
        of_group = [VALIDATE if validates else TRAIN for validates in chosen]
    return {crop.name: of_group[group] for crop, group in zip(crops, groups, strict=True)}


def write_split(path: Path, parts: Mapping[str, str], settings: SplitSettings) -> None:
    """Write the part of each crop, after a line with the settings."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# {settings.description}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, part in sorted(parts.items()):
            dataset, _, crop = name.rpartition("/crop")
            writer.writerow([dataset, crop, part])


def read_split(path: Path) -> dict[str, str]:
    """Read the part of each crop, by its name.

    Raises
    ------
    InputError
        The file cannot be read, or is no split.
    """
    text = read_csv_text(path, "split", "make it again with `--forcerun split`")
    rows = [fields for _, fields in csv_lines(text, str(path)) if not fields[0].startswith("#")]
    if not rows or rows[0] != COLUMNS or any(len(fields) != len(COLUMNS) for fields in rows):
        raise InputError(f"{path} has other columns than {','.join(COLUMNS)}: remove it")
    for dataset, crop, part in rows[1:]:
        if part not in (TRAIN, VALIDATE) and not part.isdecimal():
            raise InputError(
                f"{path}: {part!r}, the part of {dataset}/crop{crop}, is neither {TRAIN} nor "
                f"{VALIDATE} nor the number of a fold: correct it, or remove the file"
            )
    return {f"{dataset}/crop{crop}": part for dataset, crop, part in rows[1:]}


def read_earlier(path: Path, settings: SplitSettings) -> dict[str, str]:
    """Read the parts of an earlier split with the same settings; {} if there is none."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        same = file.readline().rstrip("\n") == f"# {settings.description}"
    return read_split(path) if same else {}


def group_crops(crops: Sequence[LabeledCrop], by: Literal["crop", "dataset"]) -> list[int]:
    """Return for each crop the number of its group, whose crops are on the same side of a split.

    Parameters
    ----------
    crops
        Labeled crops.
    by
        See `SplitSettings`.
    """
    if by == "dataset":
        names = list(dict.fromkeys(crop.dataset for crop in crops))
        return [names.index(crop.dataset) for crop in crops]
    groups = list(range(len(crops)))
    for i, crop in enumerate(crops):
        for j in range(i):
            if crop.dataset == crops[j].dataset and crop.grid.overlaps(crops[j].grid):
                # Crops that overlap, even indirectly, share a group.
                old, new = groups[i], groups[j]
                groups = [new if group == old else group for group in groups]
    numbers = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    return [numbers[group] for group in groups]


def _amounts(
    crops: Sequence[LabeledCrop], groups: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Return the volume of each class in each group, the dataset of each group, and their names."""
    classes = sorted({label for crop in crops for label, volume in crop.present.items() if volume})
    n = max(groups) + 1
    volume = np.zeros((n, len(classes)))
    for crop, group in zip(crops, groups, strict=True):
        volume[group] += [crop.present.get(label, 0.0) for label in classes]
    names = list(dict.fromkeys(crop.dataset for crop in crops))
    datasets = np.zeros(n, np.int64)
    datasets[list(groups)] = [names.index(crop.dataset) for crop in crops]
    return volume, datasets, names


def _earlier_by_group(
    crops: Sequence[LabeledCrop], groups: Sequence[int], earlier: Mapping[str, str]
) -> list[str | None]:
    """Return the part in which each group stays; None for a group of new crops."""
    kept: list[str | None] = [None] * (max(groups) + 1)
    for crop, group in zip(crops, groups, strict=True):
        part = earlier.get(crop.name)
        if part is not None and kept[group] not in (None, part):
            raise InputError(
                f"{crop.name} and a crop that it overlaps, perhaps through a new one, are in "
                f"{part!r} and {kept[group]!r} of the split: remove the split's file to make a new "
                "one, or remove the new crop"
            )
        kept[group] = part or kept[group]
    return kept


def _assign_folds(
    volume: NDArray[np.float64],
    datasets: NDArray[np.int64],
    kept: Sequence[str | None],
    settings: SplitSettings,
) -> list[str]:
    """Fill one fold after the other from the remaining groups."""
    assert settings.folds
    folds = np.full(len(volume), settings.folds - 1)
    left = np.arange(len(volume))
    earlier = np.array([FREE if part is None else int(part) for part in kept])
    for fold in range(settings.folds - 1):
        fixed = np.where(earlier[left] == FREE, FREE, earlier[left] == fold).astype(np.int8)
        amounts = volume[left][:, volume[left].any(axis=0)]
        of_left = _merge_single(datasets[left])
        none_first = np.zeros(of_left.max() + 1, bool)
        share = 1 / (settings.folds - fold)
        min_left = settings.folds - fold - 1
        chosen = balanced_choice(
            amounts, of_left, none_first, share, settings.seed, fixed, min_left
        )
        folds[left[chosen]] = fold
        left = left[~chosen]
    return [str(fold) for fold in folds]


def _merge_single(datasets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number datasets anew, with all that have a single group as one, so that folds share them."""
    numbers, counts = np.unique(datasets, return_counts=True)
    single = np.isin(datasets, numbers[counts == 1])
    return np.unique(np.where(single, -1, datasets), return_inverse=True)[1]
