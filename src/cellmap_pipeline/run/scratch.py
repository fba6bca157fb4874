"""Folders on a local disk for what does not fit in memory; killed jobs leave none behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from cellmap_pipeline.run.locks import claim, lives, read, this_process

PREFIX, OWNER = "cellmap-", "owner"


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder, removed at the end, and at SIGTERM: a time limit's, or `scancel`'s.

    Those of processes that were killed at once, for want of memory, say, are removed first. Called
    by a process's main thread.
    """
    _remove_left()
    with TemporaryDirectory(prefix=PREFIX) as name:
        claim(Path(name, OWNER), this_process())
        folder = Path(name, "files")
        folder.mkdir()

        def end(number: int, frame: Any) -> None:
            # Processes of its own would make anew what they write to.
            for child in active_children():
                child.kill()
                child.join()
            rmtree(folder, ignore_errors=True)
            # What a thread wrote meanwhile keeps its owner, and goes with the next job.
            if not folder.exists():
                rmtree(name, ignore_errors=True)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        before = signal.signal(signal.SIGTERM, end)
        try:
            yield folder
        finally:
            signal.signal(signal.SIGTERM, before)


def _remove_left() -> None:
    for folder in Path(gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # Another user's, or another process removes it, too.
            owner = read(folder / OWNER)
            if owner and lives(owner) is False:
                rmtree(folder, ignore_errors=True)
