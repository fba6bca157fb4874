"""What every job of the workflow does around its work: log, and end clearly on bad input."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TextIO

from cellmap_pipeline.errors import InputError

# Read when torch is first imported. Threads that spin while they wait make a job on a shared node
# more than ten times slower as soon as others want its cores, too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class _Tee:
    """Writes to the terminal and to the job's log."""

    def __init__(self, terminal: TextIO, file: TextIO) -> None:
        self.terminal = terminal
        self.file = file

    def write(self, text: str) -> int:
        self.terminal.write(text)
        return self.file.write(text)

    def flush(self) -> None:
        self.terminal.flush()
        self.file.flush()

    def isatty(self) -> bool:
        return self.terminal.isatty()


@contextmanager
def job(log: str) -> Iterator[None]:
    """Log to the file `log` and to the terminal; end with the message alone on an `InputError`.

    Of the processes that train together, the first one's log is the job's; the others add their
    warnings.

    Raises
    ------
    SystemExit
        With code 1, after an `InputError`.
    """
    # Set by Lightning in the processes that it starts.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with (
        Path(log).open("w" if first else "a", encoding="utf-8", buffering=1) as file,
        redirect_stderr(_Tee(sys.stderr, file)),
    ):
        logging.basicConfig(
            level=logging.INFO if first else logging.WARNING,
            format="%(asctime)s %(message)s",
            datefmt="%H:%M:%S",
            stream=sys.stderr,
            force=True,
        )
        try:
            yield
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)


def write_json(value: Any, path: str | Path) -> None:
    """Write `value` readably."""
    Path(path).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
