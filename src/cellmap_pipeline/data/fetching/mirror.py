"""Local copies of the files of a bucket or folder, each written atomically."""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from cellmap_pipeline.io.arrays import read_absent
from cellmap_pipeline.io.files import PARTIAL_SUFFIX, atomic_write
from cellmap_pipeline.io.regular_files import read_regular_file
from cellmap_pipeline.io.storage import (
    ABSENT_FILE,
    MAX_REMOTE_METADATA_BYTES,
    join_key,
    location,
    read_file,
)

CONCURRENT_READS = 32
# Contents of files that are read at the same time.
MAX_BUFFERED_BYTES = 1 << 30
# Longer than any file is written.
STALE_S = 3600


@dataclass
class Counts:
    """Numbers of the requested files.

    Attributes
    ----------
    files, bytes
        Number and size of the fetched files.
    present
        Number of files that were present already.
    absent
        Number of files that do not exist in the source.
    """

    files: int = 0
    bytes: int = 0
    present: int = 0
    absent: int = 0


class RemoteFile(NamedTuple):
    """A file to copy: its folder, its name, and the number of bytes that it may have."""

    folder: str
    name: str
    max_bytes: int


@dataclass
class Mirror:
    """A partial local copy of a container.

    Attributes
    ----------
    source
        Path or URL of the container.
    local
        Folder of the copy.
    counts
        Numbers of files so far.
    """

    source: str
    local: Path
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._contents: dict[str, bytes | None] = {}
        self._absent: dict[str, set[str]] = {}
        self._copied: set[str] = set()

    def read_small(self, folder: str, name: str) -> bytes | None:
        """Read a small file from the copy or else the source; None if neither has it."""
        key = join_key(folder, name)
        if key not in self._contents:
            path = self.local / key
            if path.is_file():
                self._contents[key] = read_regular_file(path, what="metadata")
            elif name in self._absent_in(folder):
                self._contents[key] = None
            else:
                source = location(self.source) / key
                self._contents[key] = read_file(source, MAX_REMOTE_METADATA_BYTES)
                if self._contents[key] is None:
                    self._absent_in(folder).add(name)
        return self._contents[key]

    def copy_small(self, folder: str, name: str) -> None:
        """Copy a small file, if the source has it."""
        key = join_key(folder, name)
        if key in self._copied:
            return
        self._copied.add(key)
        content = self.read_small(folder, name)
        path = self.local / key
        if content is None:
            self.counts.absent += 1
        elif path.is_file():
            self.counts.present += 1
        else:
            self._write(path, content)

    def write_small(self, folder: str, name: str, content: bytes) -> None:
        """Write a small file of other content than the source's, unless it is present."""
        path = self._path(folder, name)
        if not path.is_file():
            _write_file(path, content)

    def copy(self, files: Iterable[RemoteFile], progress_text: str) -> None:
        """Copy those files that are not present yet.

        Files that the source does not have are recorded, and never requested again.

        Parameters
        ----------
        files
            The files.
        progress_text
            Text beside the progress bar.

        Raises
        ------
        InputError
            The source denies access, does not answer, even after several retries, or has a larger
            file than it may.
        """
        missing = []
        for file in files:
            if self._path(file.folder, file.name).is_file():
                self.counts.present += 1
            elif file.name in self._absent_in(file.folder):
                self.counts.absent += 1
            else:
                missing.append(file)
        for local in {self._path(file.folder, file.name).parent for file in missing}:
            _remove_stale(local)
        largest = max((file.max_bytes for file in missing), default=1)
        workers = max(1, min(CONCURRENT_READS, MAX_BUFFERED_BYTES // largest))
        try:
            with (
                ThreadPoolExecutor(workers) as pool,
                tqdm(total=len(missing), desc=progress_text, unit="file", disable=None) as bar,
            ):
                for file, size in zip(missing, pool.map(self._copy_one, missing), strict=True):
                    if size is None:
                        self._absent_in(file.folder).add(file.name)
                        self.counts.absent += 1
                    else:
                        self.counts.files += 1
                        self.counts.bytes += size
                    bar.update()
        finally:
            self.record_absent()

    def record_absent(self) -> None:
        """Record in each local folder the names of the files that the source does not have."""
        for folder, names in self._absent.items():
            path = self._path(folder, ABSENT_FILE)
            if not path.parent.is_dir() or names <= _recorded(path):
                continue
            # Jobs that fetch other parts of the same array write to this file, too.
            with _locked(path.parent):
                text = json.dumps(sorted(names | _recorded(path)), indent=0) + "\n"
                _write_file(path, text.encode())

    def _path(self, folder: str, name: str) -> Path:
        """Return the local path of a file."""
        return self.local / join_key(folder, name)

    def _copy_one(self, file: RemoteFile) -> int | None:
        key = join_key(file.folder, file.name)
        content = read_file(location(self.source) / key, file.max_bytes, "a chunk")
        if content is None:
            return None
        _write_file(self.local / key, content)
        return len(content)

    def _write(self, path: Path, content: bytes) -> None:
        _write_file(path, content)
        self.counts.files += 1
        self.counts.bytes += len(content)

    def _absent_in(self, folder: str) -> set[str]:
        if folder not in self._absent:
            self._absent[folder] = _recorded(self._path(folder, ABSENT_FILE))
        return self._absent[folder]


def _recorded(path: Path) -> set[str]:
    return set(read_absent(path.parent))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_stale(folder: Path) -> None:
    """Remove the temporary files that killed jobs left in a folder."""
    for path in folder.glob(f".*{PARTIAL_SUFFIX}"):
        # Another job may write it at this moment, or have removed it.
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A unique name: neighboring crops that share chunks of raw may be fetched at the same time.
    with atomic_write(path, prefix=".", suffix=f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}") as tmp:
        tmp.write_bytes(content)
