"""Files and folders that are written atomically, and copies of files from URLs."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.io.regular_files import MAX_TEXT_BYTES
from cellmap_pipeline.io.tables import decode_csv

# Waiting for an answer, and for all of a file.
DOWNLOAD_TIMEOUT_S, MAX_DOWNLOAD_S = 60, 600
DOWNLOAD_PART_BYTES = 1 << 16
PARTIAL_SUFFIX = ".partial"
# System errors that the path or the content of a file causes. Decoders raise some without a number.
CONTENT_ERRNOS = {
    None, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR
}  # fmt: skip


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Tell a disk that fails while the block reads `path` from broken content.

    Raises
    ------
    UnavailableError
        The path cannot be read now. Errors of its content are raised as they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno in CONTENT_ERRNOS:
            raise
        raise UnavailableError(
            f"{path} cannot be read now ({error.strerror}): check its disk and your access to it, "
            "and start again; it was left as it is"
        ) from error


@contextmanager
def atomic_write(
    path: str | Path, *, prefix: str = "", suffix: str = PARTIAL_SUFFIX, fsync: bool = False
) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `path` when the block succeeds.

    If the block fails, the temporary file is removed and `path` stays as it was.

    Parameters
    ----------
    path
        The file to write. Its folder must exist.
    prefix, suffix
        Text before and after the name of `path` in the temporary file's name.
    fsync
        Flush the file to disk before it replaces `path`, so that the node may crash afterwards.
    """
    path = Path(path)
    tmp = path.with_name(prefix + path.name + suffix)
    try:
        yield tmp
        if fsync:
            with tmp.open("rb") as file:
                os.fsync(file.fileno())
        tmp.replace(path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` when the block succeeds.

    If the block fails, the temporary folder, `{path}.partial`, is removed and `path` stays as it
    was. For folders from which interrupted work is resumed, use `replace_folder` instead.
    """
    path = Path(path)
    tmp = path.with_name(path.name + PARTIAL_SUFFIX)
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        yield tmp
        replace_folder(tmp, path)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def replace_folder(tmp: Path, path: str | Path) -> None:
    """Move the finished folder `tmp` to `path`, replacing any folder there."""
    shutil.rmtree(path, ignore_errors=True)
    tmp.rename(path)


def write_json(
    path: str | Path, value: Any, *, end: str = "\n", suffix: str = PARTIAL_SUFFIX
) -> None:
    """Write a value as indented JSON, atomically.

    Parameters
    ----------
    path
        The file to write.
    value
        Any JSON-serializable value.
    end
        Text after the value.
    suffix
        Suffix of the temporary file, unique where several processes write.
    """
    with atomic_write(path, suffix=suffix) as tmp:
        tmp.write_text(json.dumps(value, indent=1) + end, encoding="utf-8")


def _download(url: str) -> bytes:
    """Read a URL whole, within `MAX_DOWNLOAD_S`.

    Raises
    ------
    OSError, ValueError, HTTPException
        It cannot be read, has no end, or takes too long.
    """
    deadline = time.monotonic() + MAX_DOWNLOAD_S
    parts: list[bytes] = []
    size = 0
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as answer:
        # `read1` returns what has arrived, so that a trickle does not outlast the deadline.
        while part := answer.read1(DOWNLOAD_PART_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_TEXT_BYTES:
                raise ValueError(f"it is larger than {MAX_TEXT_BYTES:,} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"it was not complete after {MAX_DOWNLOAD_S} s")
        # Only HTTP says how long the file is.
        if missing := getattr(answer, "length", None):
            raise ValueError(f"{missing:,} bytes are missing at its end")
    return b"".join(parts)


def local_copy(source: str, copy: Path, key: str, parse: Callable[[str, str], object]) -> Path:
    """Return the path `source`, or the path of a local copy if `source` is a URL.

    Parameters
    ----------
    source
        Path or URL of a CSV file.
    copy
        Where a URL is downloaded to, the first time only.
    key
        Name of the configuration key or command-line option that holds `source`.
    parse
        Function of the downloaded text and of its name in errors. It raises `InputError` for text
        that must not be kept.

    Raises
    ------
    InputError
        The URL cannot be read, or `parse` refuses its text.
    """
    if not re.match(r"(https?|ftp|file)://", source):
        return Path(source)
    if not copy.is_file():
        try:
            content = _download(source)
        except (OSError, ValueError, HTTPException) as error:
            raise InputError(
                f"{key}: {source} cannot be downloaded ({error}): check the address, or give "
                "the path of a local copy"
            ) from None
        parse(decode_csv(content, source), source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(copy) as tmp:
            tmp.write_bytes(content)
    return copy
