"""The one kind of error that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# Lines that anybody reads.
MOST_SHOWN = 100


class InputError(ValueError):
    """Something in the configuration or the data that the user can put right.

    The message stands alone: it names the file or the key, says what is wrong and what to do. Where
    several things are wrong it has a line for each.
    """


@contextmanager
def gathered(problems: list[str], where: str = "") -> Iterator[None]:
    """Go on after an `InputError`: its lines are added to `problems`, behind `where`."""
    try:
        yield
    except InputError as error:
        problems += [where + line for line in str(error).splitlines()]


def raise_all(problems: Sequence[str]) -> None:
    """End with all problems at once, each once, if there is any."""
    lines = list(dict.fromkeys(problems))
    if len(lines) > MOST_SHOWN:
        lines[MOST_SHOWN:] = [f"and {len(lines) - MOST_SHOWN} more"]
    if lines:
        raise InputError("\n".join(lines))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The nearest of the known words as a question, or nothing."""
    close = [k for k in known if k.casefold() == word.casefold()]
    close = close or difflib.get_close_matches(word, known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
