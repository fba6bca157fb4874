"""CSV files of the user's: manifests, splits and tables, with what spreadsheets make of them.

Read while Snakemake parses.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from cellmap_pipeline.errors import InputError

# Digits of the largest crop number.
DIGITS = 18


def read_csv_text(path: Path, what: str, remedy: str) -> str:
    """The text of the file at `path`.

    Parameters
    ----------
    what
        Errors call it so, before its path.
    remedy
        What to do where there is no such file.

    Raises
    ------
    InputError
        It does not exist, cannot be read or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        lack = "does not exist" if isinstance(error, FileNotFoundError) else None
        lack = lack or f"cannot be read ({error.strerror})"
        raise InputError(f"{what} {path} {lack}: {remedy}") from None
    return decode_csv(content, f"{what} {path}")


def decode_csv(content: bytes, name: str) -> str:
    """The text of a CSV file; raises as `read_csv_text`."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} line {line} is not UTF-8 text: save it as CSV with the encoding UTF-8"
        ) from None


def csv_lines(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Number and stripped fields of each line that is not blank; `name` is what errors call it.

    Raises
    ------
    InputError
        A line is not CSV, or separated by other signs than commas.
    """
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), skipinitialspace=True)
    try:
        for line in lines:
            fields = [field.strip() for field in line]
            if not any(fields):
                continue
            for sign, called in ((";", "';'"), ("\t", "tabs")):
                if len(fields) == 1 and fields[0].count(sign) > 1:
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
    """The lines, as `csv_lines` gives them, behind a header of `columns`.

    Raises
    ------
    InputError
        The header is another; or as `csv_lines`.
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
    """Whether a field is a whole number that can be a crop's or an id."""
    return text.isascii() and text.isdecimal() and len(text) <= DIGITS
