"""The errors that end a run with a message alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

MAX_LINES = 100


def printable(text: str) -> str:
    """Replace control characters, but for line breaks, by their escape sequences.

    Names in archives and buckets may hold sequences that a terminal would obey.
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


class InputError(ValueError):
    """An error in the configuration or the data that the user can correct.

    The message is complete: it names the file or the key, what is wrong and what to do. Several
    errors have a line each.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class UnavailableError(Exception):
    """A file or folder cannot be read now, because of its disk, its mount or the machine.

    The message is complete, as that of an `InputError`. The error says nothing about the content:
    it is neither an `InputError` nor an `OSError`, so that nobody takes the file for broken.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


@contextmanager
def gathered(problems: list[str], where: str = "") -> Iterator[None]:
    """Catch an error of this module and append its lines, prefixed with `where`, to `problems`."""
    try:
        yield
    except (InputError, UnavailableError) as error:
        problems += [where + line for line in str(error).splitlines()]


def raise_all(problems: Sequence[str]) -> None:
    """Raise an `InputError` that lists all distinct problems, if there are any."""
    lines = list(dict.fromkeys(problems))
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = [f"and {len(lines) - MAX_LINES} more"]
    if lines:
        raise InputError("\n".join(lines))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a question that suggests the most similar known word, or an empty string."""
    close = [k for k in known if k.casefold() == word.casefold()]
    close = close or difflib.get_close_matches(word, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
