"""CSV files written by users or spreadsheets: manifests, data splits and tables.

They are read while Snakemake parses the workflow.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.regular_files import read_regular_file

# Numbers of more digits exceed 64 bits.
MAX_DIGITS = 18


def read_csv_text(path: Path, what: str, remedy: str) -> str:
    """Read the text of the file at `path`.

    Parameters
    ----------
    path
        The file.
    what
        Description of the file in errors, before its path.
    remedy
        Advice for the case that the file cannot be read.

    Raises
    ------
    InputError
        The file does not exist, cannot be read or is not UTF-8.
    """
    try:
        content = read_regular_file(path)
    except OSError as error:
        lack = "does not exist" if isinstance(error, FileNotFoundError) else None
        lack = lack or f"cannot be read ({error.strerror})"
        raise InputError(f"{what} {path} {lack}: {remedy}") from None
    return decode_csv(content, f"{what} {path}")


def decode_csv(content: bytes, name: str) -> str:
    """Decode the text of a CSV file.

    Raises
    ------
    InputError
        The text is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} line {line} is not UTF-8 text: save it as CSV with the encoding UTF-8"
        ) from None


def csv_lines(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the stripped fields of each line that is not blank.

    Parameters
    ----------
    text
        Text of the file.
    name
        Name of the file in errors.

    Raises
    ------
    InputError
        A line is not CSV, or its fields are separated by semicolons or tabs.
    """
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), skipinitialspace=True)
    try:
        for line in lines:
            fields = [field.strip() for field in line]
            if not any(fields):
                continue
            for separator, called in ((";", "';'"), ("\t", "tabs")):
                if len(fields) == 1 and fields[0].count(separator) > 1:
                    raise InputError(
                        f"{name} line {lines.line_num}: its fields are separated by {called}, as "
                        "spreadsheets do in some countries: save it with commas"
                    )
            yield lines.line_num, fields
    except csv.Error as error:
        raise InputError(
            f"{name} line {lines.line_num}: not CSV ({error}): look for a quote that is not closed"
        ) from None


def table_rows(text: str, name: str, columns: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a table after its header, as `csv_lines` does.

    Parameters
    ----------
    text
        Text of the file.
    name
        Name of the file in errors.
    columns
        The required header.

    Raises
    ------
    InputError
        The header differs from `columns`, or a line is not CSV with commas.
    """
    lines = csv_lines(text, name)
    number, header = next(lines, (1, []))
    if header != columns:
        raise InputError(
            f"{name} line {number}: the header is {','.join(header)[:200]!r} but must be "
            f"{','.join(columns)!r}"
        )
    yield from lines


def is_number(text: str) -> bool:
    """Whether a field is a non-negative integer that fits into 64 bits."""
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
