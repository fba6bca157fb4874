"""What failed in a run, said at its end with the logs to look into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# What tells why, in a job's own log and in Slurm's: an `InputError`, Python, Slurm.
SIGNS = ("error:", "Error:", "slurmstepd: error:", "CANCELLED", "oom", "Killed")


class Failure(NamedTuple):
    """A job that failed.

    `name` is its rule with its wildcards; `logs` are its own, and the batch system's if any.
    """

    name: str
    logs: Sequence[Path]


def describe(failures: Iterable[Failure]) -> str:
    """A paragraph per job: its name, its logs, and of each log the line that tells most."""
    lines = []
    for failure in sorted(failures):
        lines.append(f"  {failure.name}")
        for log in failure.logs:
            lines.append(f"    {log}")
            if why := last_word(log):
                lines.append(f"      {why}")
    return "\n".join(lines)


def last_word(log: Path) -> str | None:
    """The last line of a log that tells of an error, else its last line."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # Progress bars write over their line.
    lines = [line.rpartition("\r")[2].strip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    telling = [line for line in lines if any(sign in line for sign in SIGNS)]
    return next(reversed(telling or lines), None)


def batch_log(folder: Path) -> list[Path]:
    """The newest log of a job in the folder that Slurm writes its logs to, if there is one."""
    return sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)[-1:]
