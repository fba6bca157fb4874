"""The table of all objects of labels in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.files import PARTIAL_SUFFIX, atomic_write
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import is_volume
from cellmap_pipeline.measurement.objects import measure_objects

# Labels of a crop, of a dataset's crops, and of all datasets, below a folder.
PATTERNS = ("", "*", "crop*/*", "*/crop*/*")
LEVEL = re.compile(r"s\d+")
# Areas and volumes have no more digits that mean something; positions are to 0.1 nm.
SIGNIFICANT_DIGITS, POSITION_DECIMALS = 6, 1


class StoredLabel(NamedTuple):
    """A label, and where it is from, as far as its path says."""

    path: Path
    dataset: str
    crop: str
    label: str


def find_labels(folder: Path) -> list[StoredLabel]:
    """Find labels: the one at a path, or all in a folder of {dataset}/crop{id}/{label}.

    Raises
    ------
    InputError
        There is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist (looked in {Path.cwd()}): correct the path")
    for pattern in PATTERNS:
        found = [path for path in _matching(folder, pattern) if is_volume(path)]
        if found:
            return [_describe(path) for path in sorted(found)]
    raise InputError(
        f"{folder} holds no labels: give a label, or a folder with crop{{id}}/{{label}} such as "
        "results/segmentations"
    )


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    if not pattern:
        return iter([folder])
    # The levels of a label are no labels of their own, and a killed job leaves a part of one.
    return (
        path
        for path in folder.glob(pattern)
        if not LEVEL.fullmatch(path.name) and path.suffix != PARTIAL_SUFFIX
    )


def _describe(path: Path) -> StoredLabel:
    """Take the names of the dataset, the crop and the class from …/{dataset}/crop{id}/{label}."""
    absolute = path.resolve()
    if LEVEL.fullmatch(path.name):
        absolute = absolute.parent
    crop = absolute.parent.name
    if not crop.startswith("crop"):
        return StoredLabel(path, "", "", absolute.name)
    stores = [part.removesuffix(".zarr") for part in absolute.parts if part.endswith(".zarr")]
    dataset = stores[-1] if stores else absolute.parents[1].name
    return StoredLabel(path, dataset, crop.removeprefix("crop"), absolute.name)


def measure_labels(labels: list[StoredLabel]) -> pd.DataFrame:
    """Measure all objects of labels.

    Returns
    -------
    The columns `dataset`, `crop` and `label`, and those of `measure_objects`.

    Raises
    ------
    InputError
        A volume is broken, or does not hold labels.
    """
    tables = []
    # All are opened before the first is measured, which may take long.
    for label, volume in [(label, _open(label)) for label in labels]:
        table = measure_objects(volume, f"{label.crop} {label.label}".strip())
        for column, value in enumerate((label.dataset, label.crop, label.label)):
            table.insert(column, StoredLabel._fields[column + 1], value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _open(label: StoredLabel) -> LabelVolume:
    """Open a label; raises an `InputError` if it holds probabilities."""
    volume = LabelVolume.open(label.path)
    level = volume.volume.levels[0]
    kind = level.attributes.get("cellmap_pipeline", {})
    if level.metadata.dtype.kind not in "uib" or kind.get("kind") == "probability":
        raise InputError(
            f"{label.path} holds probabilities, not labels: give results/segmentations, or a label "
            "in it"
        )
    return volume


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table of objects as CSV, rounded; its folder is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rounded = table.copy()
    for column in table:
        if column.endswith(("_um3", "_um2")):
            rounded[column] = table[column].map(f"{{:.{SIGNIFICANT_DIGITS}g}}".format)
        elif column.endswith("_nm"):
            rounded[column] = table[column].round(POSITION_DECIMALS)
    with atomic_write(path) as tmp:
        rounded.to_csv(tmp, index=False)
