"""The order of section files by the number in their names, and the numbers that are missing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cellmap_pipeline.errors import InputError

MAX_LISTED = 10


class NumberedFile(NamedTuple):
    """A file and the number in its name that counts the sections."""

    number: int
    name: str


def order_sections(folder: object, names: Sequence[str]) -> list[NumberedFile]:
    """Order section files by the number in their names.

    Of several numbers that differ between the names, the one that counts with the fewest gaps is
    taken. Others, such as times, may stand beside it.

    Parameters
    ----------
    folder
        Folder of the files, for messages.
    names
        Names of the files.

    Raises
    ------
    InputError
        The names differ by more than numbers, or two have the same number.
    """
    parts = {name: re.split(r"(\d+)", name) for name in names}
    first = names[0]
    for name in names:
        if parts[name][::2] != parts[first][::2]:
            raise InputError(
                f"{folder}: the names {first} and {name} differ by more than numbers, so that the "
                "order of the sections is not known: keep only the files of one volume there"
            )
    values = np.array([[int(part) for part in parts[name][1::2]] for name in names], object)
    values = values.reshape(len(names), -1)
    counting = [column for column in values.T if len(set(column)) == len(names)]
    if not counting:
        raise InputError(f"{folder}: {_same_number(names, values)}: rename or remove one")
    column = min(counting, key=lambda numbers: max(numbers) - min(numbers))
    return sorted(NumberedFile(number, name) for number, name in zip(column, names, strict=True))


def missing_numbers(files: Sequence[NumberedFile]) -> list[int]:
    """List the numbers that are missing between those of ordered files.

    Sections may be numbered in equal steps of any size.
    """
    numbers = [file.number for file in files]
    steps = [b - a for a, b in zip(numbers, numbers[1:], strict=False)]
    if not steps:
        return []
    step = math.gcd(*steps)
    present = set(numbers)
    count = (numbers[-1] - numbers[0]) // step + 1
    # Numbers such as dates leave out more than can be listed.
    if count > MAX_LISTED * len(numbers) + MAX_LISTED:
        raise InputError(
            f"the numbers in the names from {files[0].name} to {files[-1].name} do not count the "
            "sections: rename the files to one running number"
        )
    return [number for number in range(numbers[0], numbers[-1], step) if number not in present]


def describe_numbers(numbers: Sequence[int]) -> str:
    """List numbers, such as "3, 7 and 9", of many the first ones."""
    listed = [str(number) for number in numbers[:MAX_LISTED]]
    if len(numbers) > MAX_LISTED:
        return f"{', '.join(listed)} and {len(numbers) - MAX_LISTED} more"
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else listed[0]


def _same_number(names: Sequence[str], values: np.ndarray) -> str:
    seen: dict[tuple[int, ...], str] = {}
    for name, row in zip(names, values, strict=True):
        if (other := seen.setdefault(tuple(row), name)) != name:
            return f"{other} and {name} have the same number"
    return f"no number counts the sections from {names[0]} to {names[-1]}"
