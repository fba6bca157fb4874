"""Output to terminals that cannot show every character."""

from __future__ import annotations

import codecs
import io
import sys

ASCII = {"×": "x", "µ": "u", "\u03bc": "u", "…": "...", "–": "-", "≥": ">=", "≤": "<=", "³": "3"}


def replace_unprintable() -> None:
    """Print ASCII instead of characters that the encoding of stdout or stderr lacks."""
    codecs.register_error("cellmap-ascii", _to_ascii)
    for stream in (sys.stdout, sys.stderr):
        # A notebook or a test may have replaced it by an object that takes any text.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cellmap-ascii")


def _to_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(ASCII.get(character, "?") for character in text), error.end
