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

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.run.locking.locks import is_alive, read_holder, this_process, try_acquire

PREFIX, LOCK_NAME = "cellmap-", "owner"


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder that is removed at the end, also on SIGTERM.

    Slurm sends SIGTERM at a time limit and on `scancel`. Folders of processes that were killed at
    once, such as for lack of memory, are removed first. Only for a process's main thread.

    Raises
    ------
    InputError
        Nothing can be written in any folder for temporary files.
    """
    parent = _temporary_folder()
    _remove_orphans(parent)
    with TemporaryDirectory(prefix=PREFIX, dir=parent) as name:
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


def _temporary_folder() -> Path:
    try:
        return Path(gettempdir())
    except FileNotFoundError as error:
        raise InputError(
            f"{error.strerror}: free some space in one of them, or set TMPDIR to another folder"
        ) from None


def _remove_orphans(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        # It may belong to another user, or another process may be removing it.
        with suppress(OSError):
            holder = read_holder(folder / LOCK_NAME)
            if holder and is_alive(holder) is False:
                rmtree(folder, ignore_errors=True)
