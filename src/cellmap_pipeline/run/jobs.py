"""The frame of every job of the workflow: logging, locking and error reports."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import BinaryIO, TextIO

from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.run.gpu_use import record_gpu_use
from cellmap_pipeline.run.locking.locks import hold

# Read when torch is first imported. On a shared node, threads that spin while they wait make a job
# more than ten times slower as soon as other jobs use its cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Set in the processes of a training on other nodes than that of its job (`training.nodes`).
OTHER_NODE = "CELLMAP_OTHER_NODE"
# What is full, by the text of the system's error: libraries raise exceptions of their own for it.
FULL = {
    os.strerror(errno.ENOSPC): "the disk is full",
    os.strerror(errno.EDQUOT): "your disk quota is used up",
}


class _Tee:
    """A stream that writes to the terminal and to the job's log.

    Write errors are ignored: a job must not fail because the log's disk is full, or because the
    terminal was closed.
    """

    def __init__(self, terminal: TextIO, file: BinaryIO) -> None:
        self.terminal = terminal
        self.file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.file.write(text.encode(errors="backslashreplace"))
        with suppress(OSError):
            self.terminal.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.terminal.flush()

    def isatty(self) -> bool:
        return self.terminal.isatty()


@contextmanager
def job(log: str, outputs: Sequence[str] = (), writes_to: Sequence[str] = ()) -> Iterator[None]:
    """Log to the file `log` and to the terminal, and hold the job's lock, while the block runs.

    If another job makes the same outputs, left by a run that died, it is waited for; the lock file
    next to the log names it (`run.locks`). Of the processes of a distributed training, the first
    one writes the log, and the others of its node append their warnings to it. Those of other nodes
    print them, and the first one receives them.

    Parameters
    ----------
    log
        The job's log.
    outputs
        Paths that the job makes.
    writes_to
        Folders in which it makes other files, named if a disk is full.

    Raises
    ------
    SystemExit
        With code 1 after any exception. The log holds its traceback, or only its message for an
        error of `errors`.
    """
    # Lightning sets this variable in the processes that it starts.
    first = os.environ.get("LOCAL_RANK", "0") == "0" and OTHER_NODE not in os.environ
    with _printing_to(Path(log), first):
        logging.basicConfig(
            level=logging.INFO if first else logging.WARNING,
            format="%(asctime)s %(message)s",
            datefmt="%H:%M:%S",
            stream=sys.stderr,
            force=True,
        )
        try:
            with _script_unnamed(), ExitStack() as stack:
                if first:
                    stack.enter_context(hold(Path(log).with_suffix(".owner"), outputs))
                    stack.enter_context(record_gpu_use(Path(log).with_suffix(".gpu.json")))
                yield
        except (InputError, UnavailableError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            full = next((FULL[reason] for reason in FULL if reason in text), None)
            print(
                f"error: {_full_message(full, outputs, writes_to)}" if full else text,
                file=sys.stderr,
            )
            sys.exit(1)


@contextmanager
def _script_unnamed() -> Iterator[None]:
    """Keep worker processes from running the job's script themselves.

    A worker process that is not forked begins by running the file that `__main__.__file__` names.
    Under Snakemake, this is the rule's script, which cannot run without the `snakemake` object.
    """
    main = vars(sys.modules["__main__"])
    name = main.pop("__file__", None)
    try:
        yield
    finally:
        if name is not None:
            main["__file__"] = name


@contextmanager
def _printing_to(log: Path, first: bool) -> Iterator[None]:
    """Print to the job's log, too, which the first process empties."""
    if OTHER_NODE in os.environ:
        yield
        return
    # Several processes append to it.
    with log.open("ab", buffering=0) as file, redirect_stderr(_Tee(sys.stderr, file)):
        if first:
            file.truncate(0)
        yield


def _full_message(full: str, outputs: Sequence[str], writes_to: Sequence[str]) -> str:
    paths = [*outputs, *(f"{folder}/file" for folder in writes_to)]
    free = [(shutil.disk_usage(folder).free, folder) for folder in _folders(paths)]
    where = ", ".join(f"{folder}: {size / 1e6:.0f} MB free" for size, folder in free)
    return (
        f"{full} ({where}): free some space, or set TMPDIR to another folder if that of temporary "
        "files is full, and start again; finished work is kept"
    )


def _folders(outputs: Sequence[str]) -> list[Path]:
    """List the nearest existing folders of the outputs, and that of scratch files."""
    folders = []
    # Nothing can be written in any folder for them if all are full.
    with suppress(FileNotFoundError):
        folders.append(Path(gettempdir()))
    for output in outputs:
        folders.append(next(f for f in Path(output).resolve().parents if f.is_dir()))
    return list(dict.fromkeys(folders))
