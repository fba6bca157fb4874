"""Scratch folders on a local disk, which are removed even if their job is killed."""

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

from cellmap_pipeline.run.locks import is_alive, read_holder, this_process, try_acquire

PREFIX, LOCK_NAME = "cellmap-", "owner"


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder that is removed at the end, also on SIGTERM.

    Slurm sends SIGTERM at a time limit and on `scancel`. Folders of processes that were killed at
    once, such as for lack of memory, are removed first. Only for a process's main thread.
    """
    _remove_orphans()
    with TemporaryDirectory(prefix=PREFIX) as name:
        try_acquire(Path(name, LOCK_NAME), this_process())
        folder = Path(name, "files")
        folder.mkdir()

        def end(number: int, frame: Any) -> None:
            # Child processes would recreate the files that they write.
            for child in active_children():
                child.kill()
                child.join()
            rmtree(folder, ignore_errors=True)
            # If a thread is still writing, keep the lock file: the next job removes the rest.
            if not folder.exists():
                rmtree(name, ignore_errors=True)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        before = signal.signal(signal.SIGTERM, end)
        try:
            yield folder
        finally:
            signal.signal(signal.SIGTERM, before)


def _remove_orphans() -> None:
    for folder in Path(gettempdir()).glob(f"{PREFIX}*"):
        # It may belong to another user, or another process may be removing it.
        with suppress(OSError):
            holder = read_holder(folder / LOCK_NAME)
            if holder and is_alive(holder) is False:
                rmtree(folder, ignore_errors=True)
