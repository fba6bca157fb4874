"""Files and folders that are written atomically."""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.tables import decode_csv


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Where to write a file, so that it appears at `path` when it is complete."""
    beside = Path(f"{path}.partial")
    yield beside
    os.replace(beside, path)


def write_json(value: Any, path: str | Path) -> None:
    """Write `value` readably."""
    with whole(path) as beside:
        beside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def put_in_place(beside: Path, output: Path) -> None:
    """Make a finished folder the output, instead of what may be there."""
    shutil.rmtree(output, ignore_errors=True)
    beside.rename(output)


def local_copy(source: str, kept: Path, key: str, parse: Callable[[str, str], object]) -> Path:
    """The path `source`, or where it is a URL the file `kept`, downloaded the first time.

    Parameters
    ----------
    key
        Of the configuration, or the option, that names the source.
    parse
        Refuses, given the text and what errors call it, what is not to be kept.

    Raises
    ------
    InputError
        The URL cannot be read, or `parse` refuses its text.
    """
    if not re.match(r"(https?|ftp|file)://", source):
        return Path(source)
    if not kept.is_file():
        try:
            with urllib.request.urlopen(source, timeout=60) as answer:
                content = answer.read()
        except (OSError, ValueError) as error:
            raise InputError(
                f"{key}: {source} cannot be downloaded ({error}): check the address, or give "
                "the path of a local copy"
            ) from None
        parse(decode_csv(content, source), source)
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_suffix(".partial")
        beside.write_bytes(content)
        beside.rename(kept)
    return kept


def settle(beside: Path, path: Path) -> None:
    """Put a finished file in its place, on the disk even if the node dies after it."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)
