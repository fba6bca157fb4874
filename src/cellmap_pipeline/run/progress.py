"""How far a job is, by the progress bar at the end of its log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

# Of a log's end; a bar's line has some hundred characters.
TAIL = 16_000
# As tqdm draws it: what it is about, share, number of number, and the time that is left of it.
BAR = re.compile(r"(?P<what>[^|\n]*?):?\s+(?P<percent>\d+)%\|.*\[[\d:]+<(?P<left>[\d:]+|\?)")
# What `training_log.Progress` writes behind it.
WHOLE = re.compile(r"all done in=(?:(?P<days>\d+) days?, )?(?P<left>[\d:]+)")


class Progress(NamedTuple):
    """`what` a job is at, the `share` of that which is done, and seconds `left` if known."""

    what: str
    share: float
    left: float | None


def progress_of(log: Path) -> Progress | None:
    """What the last bar in a log says; None without one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    bars = [bar for line in re.split(r"[\r\n]", text) if (bar := BAR.match(line))]
    # Of a training, not the bar of its validation.
    telling = [bar for bar in bars if WHOLE.search(bar.string)] or bars
    if not telling:
        return None
    bar = telling[-1]
    whole = WHOLE.search(bar.string)
    left = _seconds(whole["left"]) if whole else _seconds(bar["left"])
    if whole and whole["days"]:
        left = (left or 0) + 86_400 * int(whole["days"])
    return Progress(bar["what"].strip(), int(bar["percent"]) / 100, left)


def _seconds(text: str) -> float | None:
    if text == "?":
        return None
    seconds = 0
    for part in text.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)
