"""Reading files from outside with a bound: devices and pipes have no end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from cellmap_pipeline.errors import InputError

# Tables and metadata: the challenge's largest table has 5 MB.
MAX_TEXT_BYTES = 256_000_000


def read_regular_file(path: Path, max_bytes: int = MAX_TEXT_BYTES, what: str = "a table") -> bytes:
    """Read a file whole.

    Parameters
    ----------
    path
        The file.
    max_bytes
        Number of bytes that it may have.
    what
        Description of what such a file is, for errors.

    Raises
    ------
    OSError
        The file is missing or cannot be read.
    InputError
        It is no regular file, or larger than `max_bytes`.
    """
    # Opening a pipe waits for who writes to it, unless O_NONBLOCK is set.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise InputError(f"{path} is a device or a pipe: give the path of a file")
        with open(handle, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(handle)
    if len(content) > max_bytes:
        raise InputError(
            f"{path} is larger than {max_bytes:,} bytes, too large for {what}: is it another file?"
        )
    return content
