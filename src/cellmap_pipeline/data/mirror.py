"""Files of a bucket or folder, brought here one by one, each whole or not at all."""

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
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import tensorstore as ts
from tqdm import tqdm

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.storage import kvstore, location

# Names, relative to the folder that the record lies in, of files that the source does not have.
ABSENT = ".absent.json"
# Reads under way at once: as many as tensorstore's driver has connections.
IN_FLIGHT = 32
# tensorstore itself tries again for half a minute where a request fails on the way. These waits
# (s) are for outages that last longer, for answers that never come, and for wrong bytes.
WAITS = (5, 15, 30, 60)
ANSWER_SECONDS = 180
# What tensorstore calls failures that may pass.
PASSING = ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CURL error")
# A generation of tensorstore's s3 driver: a zero, and the ETag.
MD5 = re.compile(rb'\x00"([0-9a-f]{32})"')

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What became of the files asked for."""

    files: int = 0
    bytes: int = 0
    there: int = 0
    absent: int = 0


@dataclass
class Mirror:
    """A container at `source` (a path or URL), and its copy in the folder `local`; by key."""

    source: str
    local: Path
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._small: dict[str, bytes | None] = {}
        self._absent: dict[str, set[str]] = {}
        self._kept: set[str] = set()

    @cached_property
    def _store(self) -> ts.KvStore:
        try:
            return ts.KvStore.open(kvstore(location(self.source))).result()
        except ValueError as error:
            raise InputError(
                f"{self.source} cannot be opened ({error}): check the crop table"
            ) from None

    def content(self, folder: str, name: str) -> bytes | None:
        """A small file, from here or else from the source; None where neither has it."""
        key = _join(folder, name)
        if key not in self._small:
            path = self.local / key
            if path.is_file():
                self._small[key] = path.read_bytes()
            elif name in self._absent_in(folder):
                self._small[key] = None
            else:
                self._small[key] = self._read(key)
                if self._small[key] is None:
                    self._absent_in(folder).add(name)
        return self._small[key]

    def keep(self, folder: str, name: str) -> None:
        """Bring a small file, if the source has it."""
        key = _join(folder, name)
        if key in self._kept:
            return
        self._kept.add(key)
        content = self.content(folder, name)
        path = self.local / key
        if content is None:
            self.counts.absent += 1
        elif path.is_file():
            self.counts.there += 1
        else:
            self._write(path, content)

    def bring(self, files: Iterable[tuple[str, str]], what: str) -> None:
        """Bring files, each a folder and a name in it, that are not here yet.

        Those that the source does not have are recorded, and not asked for again.

        Raises
        ------
        InputError
            The source denies them, or does not answer even after a while.
        """
        wanted = []
        for folder, name in files:
            if (self.local / folder / name).is_file():
                self.counts.there += 1
            elif name in self._absent_in(folder):
                self.counts.absent += 1
            else:
                wanted.append((folder, name))
        try:
            with (
                ThreadPoolExecutor(IN_FLIGHT) as pool,
                tqdm(total=len(wanted), desc=what, unit="file", disable=None) as bar,
            ):
                contents = pool.map(lambda file: self._bring_one(*file), wanted)
                for (folder, name), size in zip(wanted, contents, strict=True):
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
        """Write down, in the folders that are here, what the source does not have."""
        for folder, names in self._absent.items():
            path = self.local / folder / ABSENT
            if not path.parent.is_dir() or names <= _recorded(path):
                continue
            # Others that bring parts of the same array write to it, too.
            with _locked(path.parent):
                text = json.dumps(sorted(names | _recorded(path)), indent=0) + "\n"
                _write_whole(path, text.encode())

    def _bring_one(self, folder: str, name: str) -> int | None:
        key = _join(folder, name)
        content = self._read(key)
        if content is None:
            return None
        _write_whole(self.local / key, content)
        return len(content)

    def _write(self, path: Path, content: bytes) -> None:
        _write_whole(path, content)
        self.counts.files += 1
        self.counts.bytes += len(content)

    def _absent_in(self, folder: str) -> set[str]:
        if folder not in self._absent:
            self._absent[folder] = _recorded(self.local / folder / ABSENT)
        return self._absent[folder]

    def _read(self, key: str) -> bytes | None:
        """What the source holds, verified where it says its MD5; None where it has no such key."""
        name = f"{self.source}/{key}"
        seen: bytes | None = None
        problem = ""
        for wait in (*WAITS, None):
            try:
                answer = self._store.read(key).result(timeout=ANSWER_SECONDS)
            except TimeoutError:
                problem = f"no answer for {ANSWER_SECONDS} s"
            except ValueError as error:
                problem = " ".join(str(error).split())
                if not problem.startswith(PASSING):
                    break
            else:
                if answer.state != "value":
                    return None
                # Not every ETag of 32 digits is an MD5 (of encrypted objects it is not): the same
                # bytes twice are right.
                if answer.value == seen or _is_whole(answer):
                    return answer.value
                seen, problem = answer.value, "its bytes are not those of its MD5"
            if wait is not None:
                log.warning("%s: %s; trying again in %g s", name, problem, wait)
                time.sleep(wait)
        raise InputError(
            f"{name} cannot be read ({problem}): check the address in the crop table, the network "
            "and, where the bucket is not public, AWS_PROFILE; what is here already stays"
        )


def _is_whole(answer: ts.KvStore.ReadResult) -> bool:
    md5 = MD5.fullmatch(answer.stamp.generation)
    return not md5 or hashlib.md5(answer.value).hexdigest().encode() == md5[1]


def _recorded(path: Path) -> set[str]:
    return set(json.loads(path.read_text())) if path.is_file() else set()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of what is changed in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: neighbouring crops, fetched at once, share chunks of raw.
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
