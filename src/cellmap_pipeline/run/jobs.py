"""What every job of the workflow does around its work: log, be alone, and end clearly."""

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

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.run.gpu_use import watched
from cellmap_pipeline.run.locks import owned

# Read when torch is first imported. Threads that spin while they wait make a job on a shared node
# more than ten times slower as soon as others want its cores, too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
FULL = os.strerror(errno.ENOSPC)


class _Tee:
    """Writes to the terminal and to the job's log.

    No work ends because its log has no room, or because the terminal is gone.
    """

    def __init__(self, terminal: TextIO, file: BinaryIO) -> None:
        self.terminal = terminal
        self.file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.file.write(text.encode())
        with suppress(OSError):
            self.terminal.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.terminal.flush()

    def isatty(self) -> bool:
        return self.terminal.isatty()


@contextmanager
def job(log: str, outputs: Sequence[str] = ()) -> Iterator[None]:
    """Log to the file `log` and to the terminal; end with the message alone on an `InputError`.

    Another job that makes the same, left by a run that died, is waited for; who makes it stands
    in a file beside the log (`ownership`). Of the processes that train together, the first one's
    log is the job's; the others add their warnings.

    Parameters
    ----------
    log
        The job's log.
    outputs
        What it makes.

    Raises
    ------
    SystemExit
        With code 1, after an `InputError` or any other exception, which stands in the log.
    """
    # Set by Lightning in the processes that it starts.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with (
        Path(log).open("wb" if first else "ab", buffering=0) as file,
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
            with ExitStack() as alone:
                if first:
                    alone.enter_context(owned(Path(log).with_suffix(".owner"), outputs))
                    alone.enter_context(watched(Path(log).with_suffix(".gpu.json")))
                yield
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            print(f"error: {_disk_is_full(outputs)}" if FULL in text else text, file=sys.stderr)
            sys.exit(1)


def _disk_is_full(outputs: Sequence[str]) -> str:
    """What to say; whichever library met it, with an exception of its own."""
    free = [(shutil.disk_usage(folder).free, folder) for folder in _folders(outputs)]
    where = ", ".join(f"{folder}: {size / 1e6:.0f} MB free" for size, folder in free)
    return (
        f"the disk is full ({where}): make room there and start again; what was done before is kept"
    )


def _folders(outputs: Sequence[str]) -> list[Path]:
    """The folders, as far as they are there, that outputs lie in, and that of scratch files."""
    folders = [Path(gettempdir())]
    for output in outputs:
        folders.append(next(f for f in Path(output).resolve().parents if f.is_dir()))
    return list(dict.fromkeys(folders))
