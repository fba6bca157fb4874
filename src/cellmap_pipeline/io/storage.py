"""Locations of volumes: local folders and `s3://bucket/key`, with the same interface."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tensorstore as ts

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.regular_files import read_regular_file

# A JSON object: attributes of a zarr or n5 volume, metadata of an array, a tensorstore spec.
Metadata = dict[str, Any]
# For requests that fail; tensorstore backs off exponentially.
REQUEST_RETRIES = {"max_retries": 8, "initial_delay": "200ms", "max_delay": "10s"}
# Files that mark a group or an array of zarr 2 and zarr 3.
ZARR_FILES = (".zattrs", "zarr.json")
# Linux allows 255 bytes in one name, of which a temporary file's suffix takes some, and S3 1024 in
# a key.
MAX_NAME_BYTES, MAX_KEY_BYTES = 200, 1024
# In the folder of a fetched array: the names, as a JSON list, of files that its source lacks.
ABSENT_FILE = ".absent.json"


@dataclass(frozen=True)
class S3Path:
    """A key of an S3 bucket, used like a `pathlib.Path`.

    Requests are signed if AWS_ACCESS_KEY_ID or AWS_PROFILE is set in the environment, and
    anonymous otherwise. AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL select another server, AWS_REGION
    or AWS_DEFAULT_REGION its region.

    Attributes
    ----------
    bucket
        Name of the bucket.
    key
        Key in the bucket, without slashes at its ends.
    """

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> S3Path:
        """The key without its last part."""
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    @property
    def parents(self) -> list[S3Path]:
        """The keys above this one, nearest first."""
        return [self.parent, *self.parent.parents] if self.key else []

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket and the parts of the key."""
        return (self.bucket, *self.key.split("/"))

    @property
    def spec(self) -> Metadata:
        """Specification of the key-value store for tensorstore."""
        signed = any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"))
        spec: Metadata = {
            "driver": "s3",
            "bucket": self.bucket,
            "path": f"{self.key}/" if self.key else "",
            "aws_credentials": {"type": "default" if signed else "anonymous"},
            "s3_request_retries": REQUEST_RETRIES,
        }
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if endpoint:
            spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
        elif region:
            spec["aws_region"] = region
        return spec

    @cached_property
    def _store(self) -> ts.KvStore:
        try:
            return ts.KvStore.open(self.spec).result()
        except ValueError as error:
            raise InputError(f"{self} cannot be opened ({error}): check the address") from None

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        """Read keys below this one; None for keys that do not exist.

        Raises
        ------
        InputError
            The bucket does not answer, or denies access.
        """
        requests = [self._store.read(name) for name in names]
        contents = []
        for name, future in zip(names, requests, strict=True):
            try:
                answer = future.result()
            except ValueError as error:
                raise InputError(
                    f"{self / name} cannot be read ({error}): check the address, the network and, "
                    "where the bucket is not public, AWS_PROFILE"
                ) from None
            contents.append(answer.value if answer.state == "value" else None)
        return contents

    def present(self, names: Sequence[str]) -> list[bool]:
        """Check, in concurrent requests, which keys below this one exist.

        Raises
        ------
        InputError
            The bucket does not answer, or denies listing its keys.
        """
        # The range ends before the next possible name, so it holds the name alone.
        requests = [self._store.list(ts.KvStore.KeyRange(name, name + "\0")) for name in names]
        try:
            return [bool(answer.result()) for answer in requests]
        except ValueError as error:
            raise InputError(
                f"{self} cannot be listed ({error}): check the address, the network and, where "
                "the bucket is not public, AWS_PROFILE"
            ) from None


Location = Path | S3Path


def location(path: str | Location) -> Location:
    """Parse a path or an `s3://` URL.

    Raises
    ------
    InputError
        The URL is of another kind.
    """
    if not isinstance(path, str):
        return path
    if path.startswith("s3://"):
        bucket, _, key = path.removeprefix("s3://").partition("/")
        return S3Path(bucket, key.strip("/"))
    if "://" in path:
        raise InputError(f"{path}: only paths of folders and s3:// URLs can be read")
    return Path(path)


def join_key(folder: str, name: str) -> str:
    """Join a key and the name of a file below it, both of which may come from outside.

    All local paths of what a bucket or an archive holds are made by this function.

    Raises
    ------
    InputError
        It is no plain relative path that a file system takes: a part is empty, `.` or `..`, holds a
        backslash or a character that is not printable, or is too long.
    """
    key = f"{folder}/{name}" if folder else name
    parts = key.split("/")
    plain = all(
        part not in ("", ".", "..") and part.isprintable() and "\\" not in part for part in parts
    )
    if not plain:
        raise InputError(
            f"{ascii(key)} is no path inside of its volume: the metadata of the source are wrong; "
            "take another source, or report it to who wrote it"
        )
    if len(key.encode()) > MAX_KEY_BYTES or any(
        len(part.encode()) > MAX_NAME_BYTES for part in parts
    ):
        raise InputError(
            f"{ascii(key[:80])}… is too long for a path: a name has up to {MAX_NAME_BYTES} bytes, "
            f"all together {MAX_KEY_BYTES}"
        )
    return key


def kvstore(path: Location) -> Metadata:
    """Specification of the key-value store of a folder or key for tensorstore."""
    return path.spec if isinstance(path, S3Path) else {"driver": "file", "path": f"{path}/"}


def present(folder: Location, names: Sequence[str]) -> list[bool]:
    """Check which files of a folder, or keys below a key, exist."""
    if isinstance(folder, S3Path):
        return folder.present(names)
    return [_is(stat.S_ISREG, folder / name) for name in names]


def volumes_in(folder: Location, names: Sequence[str]) -> list[str]:
    """Select the names that are folders in a folder, or zarr groups or arrays below a key."""
    if isinstance(folder, S3Path):
        existing = [folder.present([f"{name}/{file}" for name in names]) for file in ZARR_FILES]
        return [name for name, *exists in zip(names, *existing, strict=True) if any(exists)]
    return [name for name in names if _is(stat.S_ISDIR, folder / name)]


def _is(kind: Callable[[int], bool], path: Path) -> bool:
    """Whether there is a file or folder; what cannot be looked at now is not taken for missing."""
    try:
        return kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(_unreadable(path, error)) from None


def read_text(path: Location) -> str | None:
    """Read the text of a file or key, or None if there is none; raises as `read_texts`."""
    (text,) = read_texts(path.parent, [path.name])
    return text


def read_texts(folder: Location, names: Sequence[str]) -> list[str | None]:
    """Read the texts of files in a folder, or, in concurrent requests, of keys below a key.

    Raises
    ------
    InputError
        A file or key is not UTF-8, or cannot be read.
    """
    if isinstance(folder, S3Path):
        contents = folder.read(names)
    else:
        contents = [_read_file(folder / name) for name in names]
    texts = []
    for name, content in zip(names, contents, strict=True):
        try:
            texts.append(None if content is None else content.decode("utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"{folder / name} is not UTF-8 text: copy or fetch it again") from None
    return texts


def _read_file(path: Path) -> bytes | None:
    try:
        return read_regular_file(path, what="metadata")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: OSError) -> str:
    return (
        f"{path} cannot be read ({error.strerror}): ask its owner for read permission, or copy it "
        "again"
    )


def read_json(path: Location) -> Metadata:
    """Read the JSON file at `path`.

    Raises
    ------
    InputError
        The file is missing or not JSON.
    """
    value = read_json_if_present(path)
    if value is None:
        raise InputError(f"{path} does not exist: the volume is incomplete")
    return value


def read_json_if_present(path: Location) -> Metadata | None:
    """Read the JSON file at `path`; return None if there is none.

    Raises
    ------
    InputError
        The file is not JSON.
    """
    (value,) = read_json_files(path.parent, [path.name])
    return value


def read_json_files(folder: Location, names: Sequence[str]) -> list[Metadata | None]:
    """Read JSON files in a folder, or keys below a key; None for those that do not exist.

    Raises
    ------
    InputError
        A file is not JSON, or cannot be read.
    """
    texts = zip(names, read_texts(folder, names), strict=True)
    return [None if text is None else _parse_json(text, folder / name) for name, text in texts]


def _parse_json(text: str, path: Location) -> Metadata:
    again = "copy or fetch it again, or write the volume again"
    if not text.strip():
        raise InputError(f"{path} is empty: {again}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): {again}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold attributes by name: {again}")
    return value
