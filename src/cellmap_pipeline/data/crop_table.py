"""The challenge's crop table: the locations of the labels and the raw of each crop.

Format (`manifest.csv` of cellmap-segmentation-challenge): a CSV with the header
`crop_number,collection,alignment,crop_url,em_url`. Read while Snakemake parses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellmap_pipeline.data.manifest import NAME
from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.io.tables import is_number, read_csv_text, table_rows

COLUMNS = ["crop_number", "collection", "alignment", "crop_url", "em_url"]


@dataclass(frozen=True)
class CropRow:
    """A row of the crop table.

    Attributes
    ----------
    crop
        Number of the crop.
    dataset
        Name of its dataset.
    labels, raw
        Paths or URLs of the folder of its labels and of its raw.
    """

    crop: int
    dataset: str
    labels: str
    raw: str


def read_crop_table(path: Path) -> dict[int, CropRow]:
    """Read the rows of the crop table at `path`, by crop.

    Raises
    ------
    InputError
        The file is missing or not text; or a row is malformed or repeats a crop. The message has
        its line number.
    """
    text = read_csv_text(
        path, "fetch.crops:", "set it to the path or https URL of the challenge's crop table "
        "(manifest.csv)",
    )  # fmt: skip
    return parse_crop_table(text, str(path))


def parse_crop_table(text: str, name: str) -> dict[int, CropRow]:
    """Parse the rows of a crop table's text, by crop; errors call the table `name`."""
    rows: dict[int, CropRow] = {}
    problems: list[str] = []
    for number, fields in table_rows(text, name, COLUMNS):
        where = f"{name} line {number}"
        with gathered(problems):
            row = _parse_row(fields, where)
            if rows.setdefault(row.crop, row) is not row:
                raise InputError(f"{where}: crop {row.crop} is listed twice: remove one")
    raise_all(problems)
    if not rows:
        raise InputError(f"{name} has no rows: it must list at least one crop")
    return rows


def split_url(url: str, dataset: str) -> tuple[str, str]:
    """Split a URL into the container `{dataset}.zarr` or `{dataset}.n5` and the key in it.

    Raises
    ------
    ValueError
        The URL points into neither.
    """
    for suffix in (".zarr", ".n5"):
        head, found, key = url.rstrip("/").partition(f"/{dataset}{suffix}/")
        if found and head and key:
            if ".." in key.split("/"):
                raise ValueError(f"{url!r} leaves {dataset}{suffix} with '..': remove it")
            return f"{head}/{dataset}{suffix}", key
    raise ValueError(f"{url!r} does not point into {dataset}.zarr or {dataset}.n5")


def _parse_row(fields: list[str], where: str) -> CropRow:
    if len(fields) != len(COLUMNS):
        raise InputError(
            f"{where}: {len(fields)} fields, but a row has {len(COLUMNS)}: {', '.join(COLUMNS)}"
        )
    crop, dataset, _, labels, raw = fields
    if not is_number(crop):
        raise InputError(f"{where}: crop_number {crop!r} is not a whole number such as 234")
    if not NAME.fullmatch(dataset):
        raise InputError(
            f"{where}: collection {dataset!r} is not a name (letters, digits, '_', '-', '.')"
        )
    for column, url in (("crop_url", labels), ("em_url", raw)):
        try:
            split_url(url, dataset)
        except ValueError as error:
            raise InputError(f"{where}: {column} {error}") from None
    if split_url(labels, dataset)[0].endswith(".n5"):
        raise InputError(f"{where}: crop_url {labels!r}: labels must be zarr; only raw may be n5")
    if labels.rstrip("/").rpartition("/")[2] != f"crop{crop}":
        raise InputError(f"{where}: crop_url {labels!r} does not end with crop{crop}")
    return CropRow(int(crop), dataset, labels, raw)
