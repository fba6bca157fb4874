"""The CSV of a data split, in the challenge's five columns, and its summary table."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import join
from pathlib import Path
from typing import NamedTuple

from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.storage import Location, location
from cellmap_pipeline.io.tables import csv_lines, read_csv_text


@dataclass(frozen=True)
class LabeledCrop:
    """A crop with ground truth.

    Attributes
    ----------
    dataset
        Name of its dataset.
    crop
        Number of the crop.
    zarr
        Container of its labels.
    raw
        Its raw.
    labels
        Path of the folder of its labels, relative to `zarr`.
    grid
        Grid of all of its labels, in voxels of the finest one.
    present
        Labeled volume of each annotated class, nm³.
    """

    dataset: str
    crop: int
    zarr: Location
    raw: Location
    labels: str
    grid: Grid
    present: dict[str, float]

    @property
    def name(self) -> str:
        """Name in errors and logs."""
        return f"{self.dataset}/crop{self.crop}"


class DatasplitRow(NamedTuple):
    """A row of a datasplit.

    Attributes
    ----------
    usage
        `train` or `validate`.
    raw
        Location of the raw.
    labels
        Folder of the labels.
    classes
        Annotated classes to use.
    """

    usage: str
    raw: Location
    labels: Location
    classes: list[str]


def container_of(folder: Location) -> Location:
    """Return the container of a crop's labels, `{dataset}.zarr`, or else their parent folder."""
    return next((path for path in folder.parents if path.name.endswith(".zarr")), folder.parent)


def crop_number(folder: Location) -> int:
    """Return the number of the crop whose labels are in `folder`: the digits of its name, or 0."""
    return int(re.sub(r"\D", "", folder.name) or 0)


def write_datasplit(
    path: Path, crops: Sequence[LabeledCrop], usage: Sequence[str], classes: Sequence[str]
) -> None:
    """Write a datasplit in the challenge's five columns."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for crop, use in zip(crops, usage, strict=True):
            annotated = ",".join(label for label in classes if label in crop.present)
            labels = f"{crop.labels}/[{annotated}]"
            writer.writerow([use, *_raw_fields(crop), crop.zarr, labels])


def _raw_fields(crop: LabeledCrop) -> tuple[str, str]:
    """Zarr of a crop's raw, and path in it; a relative path stays relative."""
    zarr, raw = str(crop.zarr), str(crop.raw)
    if raw.startswith(f"{zarr}/"):
        return zarr, raw.removeprefix(f"{zarr}/")
    if isinstance(crop.raw, Path) and not crop.raw.is_absolute():
        return str(crop.raw.parent), crop.raw.name
    return zarr, raw


def write_summary(
    path: Path, crops: Sequence[LabeledCrop], usage: Sequence[str], classes: Sequence[str]
) -> None:
    """Write the number of crops and their volume (µm³) on both sides, by class and by dataset.

    The volume of a class is what is labeled as such, that of a dataset all that is annotated.
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["by", "name", "train_crops", "validate_crops", "train_um3", "validate_um3", "share"]
        )
        for label in classes:
            volumes = [crop.present.get(label, 0.0) for crop in crops]
            writer.writerow(["class", label, *_sums_by_side(volumes, usage)])
        for dataset in sorted({crop.dataset for crop in crops}):
            volumes = [
                crop.grid.size * math.prod(crop.grid.voxel_size) * (crop.dataset == dataset)
                for crop in crops
            ]
            writer.writerow(["dataset", dataset, *_sums_by_side(volumes, usage)])


def _sums_by_side(volumes_nm3: Sequence[float], usage: Sequence[str]) -> list[int | str]:
    """Count the volumes above 0 on each side, and sum them; the share is that of validation."""
    train, validate = (
        [v for v, use in zip(volumes_nm3, usage, strict=True) if v and use == side]
        for side in ("train", "validate")
    )
    sums = [sum(train) * 1e-9, sum(validate) * 1e-9]
    share = sums[1] / sum(sums)
    return [len(train), len(validate), *(f"{v:.6g}" for v in sums), f"{share:.4f}"]


def read_summary(path: Path, by: str) -> dict[str, dict[str, float]]:
    """Read the rows of a summary that are `by` class or dataset.

    Returns
    -------
    By the name of the class or dataset, the numbers of its row by column.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.pop("by") == by]
    return {
        row.pop("name"): {column: float(value) for column, value in row.items()} for row in rows
    }


def read_datasplit(
    path: Path, classes: Sequence[str] | None, needs_validation: bool = True
) -> list[DatasplitRow]:
    """Read the rows of a datasplit in any of its forms.

    The forms are the challenge's five columns, cellmap-data's `usage,raw,label` without header,
    and `raw,label,usage` with that header. Relative paths are relative to the working directory.
    In five columns, a raw dataset that is absolute or an `s3://` URL is not joined with its zarr.

    Parameters
    ----------
    path
        Path of the CSV.
    classes
        Classes to keep of those in brackets; None keeps all. A label without brackets stands for
        all of them.
    needs_validation
        Whether rows to validate on are required, as rows to train on always are.

    Raises
    ------
    InputError
        The file cannot be read, rows are malformed (the message has a line for each, with its line
        number), or a required side of the split is empty.
    """
    text = read_csv_text(
        path, "datasplit", "`datasplit` in the training's file is the path of a CSV"
    )
    rows = []
    order: list[str] | None = None
    problems: list[str] = []
    for number, fields in csv_lines(text, str(path)):
        if fields[0].startswith("#"):
            continue
        if sorted(fields) == ["label", "raw", "usage"]:
            order = fields
            continue
        with gathered(problems):
            rows.append(_parse_row(fields, order, f"{path} line {number}", classes))
    raise_all(problems)
    for side in ("train", "validate") if needs_validation else ("train",):
        if not any(row.usage == side for row in rows):
            needed = "both train and validate" if needs_validation else "crops to train on"
            raise InputError(f"{path} has no row for {side!r}: it needs {needed}")
    return rows


def _parse_row(
    fields: list[str], order: list[str] | None, where: str, classes: Sequence[str] | None
) -> DatasplitRow:
    if order and len(fields) == 3:
        named = dict(zip(order, fields, strict=True))
        usage, raw, label = named["usage"], named["raw"], named["label"]
    elif len(fields) == 3:
        usage, raw, label = fields
    elif len(fields) == 5:
        usage, label = fields[0], join(fields[3], fields[4])
        raw = fields[2] if "://" in fields[2] else join(fields[1], fields[2])
    else:
        raise InputError(
            f"{where}: {len(fields)} columns, but a row is usage,raw,label or usage,raw zarr,"
            'raw dataset,label zarr,"path/cropN/[class,class]"'
        )
    if usage not in ("train", "validate"):
        raise InputError(f"{where}: usage {usage!r} must be train or validate")
    match = re.fullmatch(r"(.*)/\[([^\[\]]*)\]", label)
    folder = location(match[1] if match else label)
    annotated = [c.strip() for c in match[2].split(",")] if match else list(classes or [])
    if classes is None:
        return DatasplitRow(usage, location(raw), folder, annotated)
    wanted = [c for c in classes if c in annotated]
    if not wanted:
        raise InputError(
            f"{where}: the training uses none of the classes in brackets, but only "
            f"{', '.join(classes)}: remove the row, or name one of them"
        )
    return DatasplitRow(usage, location(raw), folder, wanted)
