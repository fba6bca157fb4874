"""The failed jobs of a run, listed at its end with their logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# Parts of log lines that state an error: of an `InputError`, of Python and of Slurm.
ERROR_MARKS = ("error:", "Error:", "slurmstepd: error:", "CANCELLED", "oom", "Killed")


class Failure(NamedTuple):
    """A failed job.

    Attributes
    ----------
    name
        Its rule and wildcards.
    logs
        Its own log, and the batch system's if there is one.
    """

    name: str
    logs: Sequence[Path]


def describe_failures(failures: Iterable[Failure]) -> str:
    """Format a paragraph per job: its name, and its logs, each with its last error line."""
    lines = []
    for failure in sorted(failures):
        lines.append(f"  {failure.name}")
        for log in failure.logs:
            lines.append(f"    {log}")
            if reason := last_error_line(log):
                lines.append(f"      {reason}")
    return "\n".join(lines)


def last_error_line(log: Path) -> str | None:
    """Return the last line of a log that states an error, or its last line if none does."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # Progress bars overwrite their line.
    lines = [line.rpartition("\r")[2].strip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    errors = [line for line in lines if any(mark in line for mark in ERROR_MARKS)]
    return next(reversed(errors or lines), None)


def batch_log(folder: Path) -> list[Path]:
    """Return the newest of the batch system's logs in a job's folder; the list may be empty."""
    return sorted(folder.rglob("*.log"), key=lambda path: path.stat().st_mtime)[-1:]
