"""The progress of a job, read from the progress bar at the end of its log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

# Read from a log's end; a bar's line has some hundred characters.
TAIL_BYTES = 16_000
# A bar of tqdm: description, percentage, counts, and remaining time.
BAR = re.compile(r"(?P<what>[^|\n]*?):?\s+(?P<percent>\d+)%\|.*\[[\d:]+<(?P<left>[\d:]+|\?)")
# Remaining time of the whole training, which the progress bar of `training.callbacks` adds.
TRAINING_LEFT = re.compile(r"all done in=(?:(?P<days>\d+) days?, )?(?P<left>[\d:]+)")


class Progress(NamedTuple):
    """The current step of a job.

    Attributes
    ----------
    what
        Description of the step.
    share
        Finished fraction of the step.
    left
        Remaining time, s, if known.
    """

    what: str
    share: float
    left: float | None


def read_progress(log: Path) -> Progress | None:
    """Read the last progress bar of a log, or None if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    bars = [bar for line in re.split(r"[\r\n]", text) if (bar := BAR.match(line))]
    # For a training, the bar of its epoch, not that of its validation.
    bars = [bar for bar in bars if TRAINING_LEFT.search(bar.string)] or bars
    if not bars:
        return None
    bar = bars[-1]
    training = TRAINING_LEFT.search(bar.string)
    left = _seconds(training["left"]) if training else _seconds(bar["left"])
    if training and training["days"]:
        left = (left or 0) + 86_400 * int(training["days"])
    return Progress(bar["what"].strip(), int(bar["percent"]) / 100, left)


def _seconds(text: str) -> float | None:
    if text == "?":
        return None
    seconds = 0
    for part in text.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)
