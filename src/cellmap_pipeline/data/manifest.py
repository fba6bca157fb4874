"""The challenge's test-crop manifest: the labels that a submission contains.

Format (cellmap-segmentation-challenge): a CSV with the header
`crop_name,dataset,class_label,voxel_size,translation,shape`; the last three are `[z;y;x]`, in nm,
nm and voxels.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import re
from collections.abc import Iterable
from pathlib import Path

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.geometry import Grid, is_plausible
from cellmap_pipeline.io.files import local_copy
from cellmap_pipeline.io.tables import is_number, read_csv_text, table_rows

COLUMNS = ["crop_name", "dataset", "class_label", "voxel_size", "translation", "shape"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
# The source that stands for the manifest of the installed toolbox, and its path in the package.
TOOLBOX = "cellmap-segmentation-challenge"
TOOLBOX_MANIFEST = "utils/test_crop_manifest.csv"
# Larger crops (a terabyte of probabilities) are typing errors.
MAX_CROP_VOXELS = 2**40


def read_manifest(path: str | Path, key: str = "test_crops") -> list[CropLabel]:
    """Read the rows of the manifest at `path`, in its order.

    Parameters
    ----------
    path
        Path of the manifest.
    key
        Configuration key that names the manifest, for errors.

    Raises
    ------
    InputError
        The file is missing or not text; or rows are malformed, duplicate others or put a crop into
        two datasets. The message has a line for each, with its line number.
    """
    remedy = f"set `{key}` to a file in the challenge's format"
    text = read_csv_text(Path(path), "test-crop manifest", remedy)
    return parse_manifest(text, str(path))


def local_manifest(source: str, folder: Path, key: str = "test_crops") -> Path:
    """Return a local path of the manifest at `source`: a path, a URL, or `TOOLBOX`.

    Parameters
    ----------
    source
        Path, URL or `TOOLBOX`.
    folder
        Folder of the local copy of a URL, which is downloaded only once.
    key
        Configuration key that names the manifest, for errors.

    Raises
    ------
    InputError
        The URL cannot be read, or the toolbox is not installed.
    """
    if source == TOOLBOX:
        return toolbox_manifest(key)
    return local_copy(source, folder / "test_crop_manifest.csv", key, parse_manifest)


def parse_manifest(text: str, name: str) -> list[CropLabel]:
    """Parse the rows of a manifest's text; errors call the manifest `name`."""
    rows: list[CropLabel] = []
    line_of: dict[tuple[int, str], int] = {}
    dataset_of: dict[int, str] = {}
    problems: list[str] = []
    for number, fields in table_rows(text, name, COLUMNS):
        where = f"{name} line {number}"
        with gathered(problems):
            row = _parse_row(fields, where)
            first = line_of.setdefault((row.crop, row.label), number)
            if first != number:
                raise InputError(
                    f"{where}: crop {row.crop}, label {row.label} is listed twice (first in line "
                    f"{first}): remove one"
                )
            if dataset_of.setdefault(row.crop, row.dataset) != row.dataset:
                raise InputError(
                    f"{where}: crop {row.crop} belongs to dataset {row.dataset} here and to "
                    f"{dataset_of[row.crop]} above: crop ids must be unique"
                )
            rows.append(row)
    raise_all(problems)
    if not rows:
        raise InputError(f"{name} has no rows: it must list at least one test crop")
    return rows


def write_manifest(rows: Iterable[CropLabel], path: str | Path) -> None:
    """Write `rows` in the challenge's format."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            grid = (row.grid.voxel_size, row.grid.translation, row.grid.shape)
            vectors = ["[" + ";".join(str(v) for v in vector) + "]" for vector in grid]
            writer.writerow([row.crop, row.dataset, row.label, *vectors])


def toolbox_manifest(key: str = "test_crops") -> Path:
    """Return the path of the official toolbox's manifest, without importing the toolbox."""
    spec = importlib.util.find_spec(TOOLBOX.replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        if (Path(folder) / TOOLBOX_MANIFEST).is_file():
            return Path(folder) / TOOLBOX_MANIFEST
    lack = f"is installed but has no {TOOLBOX_MANIFEST}" if folders else "is not installed"
    raise InputError(
        f"{key}: {TOOLBOX} stands for the manifest of the official toolbox, which {lack}: install "
        "it, or give the path or URL of a test_crop_manifest.csv"
    )


def _parse_row(fields: list[str], where: str) -> CropLabel:
    if len(fields) != len(COLUMNS):
        raise InputError(
            f"{where}: {len(fields)} fields, but a row has {len(COLUMNS)}: {', '.join(COLUMNS)}"
        )
    crop, dataset, label, voxel_size, translation, shape = fields
    if not is_number(crop):
        raise InputError(f"{where}: crop_name {crop!r} is not a whole number such as 557")
    for column, value in (("dataset", dataset), ("class_label", label)):
        if not NAME.fullmatch(value):
            raise InputError(
                f"{where}: {column} {value!r} is not a name (letters, digits, '_', '-', '.')"
            )
    try:
        grid = Grid(
            _parse_vector(voxel_size, float),
            _parse_vector(translation, float),
            _parse_vector(shape, int),
        )
    except ValueError as error:
        raise InputError(
            f"{where}: {error}; voxel_size, translation and shape are written as [z;y;x]"
        ) from None
    if not is_plausible(grid.voxel_size):
        raise InputError(
            f"{where}: voxel_size {voxel_size} is not a plausible voxel size in nm: check the unit"
        )
    if math.prod(grid.shape) > MAX_CROP_VOXELS:
        raise InputError(f"{where}: shape {shape} is larger than any crop: check its numbers")
    return CropLabel(int(crop), dataset, label, grid)


def _parse_vector(text: str, kind: type) -> tuple:
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError(f"{text!r} is not of the form [z;y;x]")
    parts = text[1:-1].split(";")
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        numbers = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{text!r} must hold {numbers}") from None
