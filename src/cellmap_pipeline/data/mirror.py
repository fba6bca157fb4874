"""Local copies of the files of a bucket or folder, each written atomically."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import tensorstore as ts
from tqdm import tqdm

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.arrays import read_absent
from cellmap_pipeline.io.files import PARTIAL_SUFFIX, atomic_write
from cellmap_pipeline.io.regular_files import read_regular_file
from cellmap_pipeline.io.storage import ABSENT_FILE, join_key, kvstore, location

# As many as tensorstore's driver has connections.
CONCURRENT_READS = 32
# tensorstore retries failed requests for half a minute. These waits are for longer outages, missing
# answers and corrupt content.
RETRY_WAITS_S = (5, 15, 30, 60)
ANSWER_TIMEOUT_S = 180
# Longer than any file is written.
STALE_S = 3600
# Beginnings of tensorstore's messages of transient errors.
TRANSIENT_ERRORS = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CURL error")
# A generation of tensorstore's S3 driver is a zero and the ETag, which often is the MD5.
MD5 = re.compile(rb'\x00"([0-9a-f]{32})"')

log = logging.getLogger(__name__)


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

    @cached_property
    def _store(self) -> ts.KvStore:
        try:
            return ts.KvStore.open(kvstore(location(self.source))).result()
        except ValueError as error:
            raise InputError(
                f"{self.source} cannot be opened ({error}): check the crop table"
            ) from None

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
                self._contents[key] = self._read(key)
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

    def copy(self, files: Iterable[tuple[str, str]], progress_text: str) -> None:
        """Copy those files that are not present yet.

        Files that the source does not have are recorded, and never requested again.

        Parameters
        ----------
        files
            Folder and name of each file.
        progress_text
            Text beside the progress bar.

        Raises
        ------
        InputError
            The source denies access or does not answer, even after several retries.
        """
        missing = []
        for folder, name in files:
            if self._path(folder, name).is_file():
                self.counts.present += 1
            elif name in self._absent_in(folder):
                self.counts.absent += 1
            else:
                missing.append((folder, name))
        for local in {self._path(*file).parent for file in missing}:
            _remove_stale(local)
        try:
            with (
                ThreadPoolExecutor(CONCURRENT_READS) as pool,
                tqdm(total=len(missing), desc=progress_text, unit="file", disable=None) as bar,
            ):
                sizes = pool.map(lambda file: self._copy_one(*file), missing)
                for (folder, name), size in zip(missing, sizes, strict=True):
                    if size is None:
                        self._absent_in(folder).add(name)
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

    def _copy_one(self, folder: str, name: str) -> int | None:
        key = join_key(folder, name)
        content = self._read(key)
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

    def _read(self, key: str) -> bytes | None:
        """Read a key from the source and verify its MD5, if known; None if the key is missing."""
        name = f"{self.source}/{key}"
        previous: bytes | None = None
        problem = ""
        for wait in (*RETRY_WAITS_S, None):
            request = self._store.read(key)
            try:
                answer = request.result(timeout=ANSWER_TIMEOUT_S)
            except TimeoutError:
                # Otherwise a body without an end would be received further on.
                request.cancel()
                problem = f"no answer for {ANSWER_TIMEOUT_S} s"
            except ValueError as error:
                problem = " ".join(str(error).split())
                if not problem.startswith(TRANSIENT_ERRORS):
                    break
            else:
                if answer.state != "value":
                    return None
                # An ETag of 32 digits is not always an MD5 (not for encrypted objects), so the same
                # content twice is accepted, too.
                if answer.value == previous or _matches_md5(answer):
                    return answer.value
                previous, problem = answer.value, "its content does not match its MD5"
            if wait is not None:
                log.warning("%s: %s; retrying in %g s", name, problem, wait)
                time.sleep(wait)
        raise InputError(
            f"{name} cannot be read ({problem}): check the address in the crop table, the network "
            "and, if the bucket is not public, AWS_PROFILE; files fetched so far are kept"
        )


def _matches_md5(answer: ts.KvStore.ReadResult) -> bool:
    md5 = MD5.fullmatch(answer.stamp.generation)
    return not md5 or hashlib.md5(answer.value).hexdigest().encode() == md5[1]


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
