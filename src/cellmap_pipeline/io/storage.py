"""Locations of volumes: local folders and `s3://bucket/key`, with the same interface."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.regular_files import MAX_TEXT_BYTES, read_regular_file
from cellmap_pipeline.io.remote.s3 import BUCKET, S3Path

# A JSON object: attributes of a zarr or n5 volume, metadata of an array, a tensorstore spec.
Metadata = dict[str, Any]
# Files that mark a group or an array of zarr 2 and zarr 3.
ZARR_FILES = (".zattrs", "zarr.json")
# Linux allows 255 bytes in one name, of which a temporary file's suffix takes some, and S3 1024 in
# a key.
MAX_NAME_BYTES, MAX_KEY_BYTES = 200, 1024
# Metadata of a group or an array in a bucket; those of the challenge have some kB.
MAX_REMOTE_METADATA_BYTES = 1 << 24
# In the folder of a fetched array: the names, as a JSON list, of files that its source lacks.
ABSENT_FILE = ".absent.json"
WRITE_AGAIN = "copy or fetch it again, or write the volume again"


Location = Path | S3Path


def location(path: str | Location) -> Location:
    """Parse a path or an `s3://` URL.

    Raises
    ------
    InputError
        The URL is of another kind, or names no bucket.
    """
    if not isinstance(path, str):
        return path
    if path.startswith("s3://"):
        bucket, _, key = path.removeprefix("s3://").partition("/")
        if not BUCKET.fullmatch(bucket):
            raise InputError(f"{path} names no bucket: correct the address")
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
        contents = folder.read_below(names, MAX_REMOTE_METADATA_BYTES)
    else:
        contents = [read_file(folder / name) for name in names]
    texts = []
    for name, content in zip(names, contents, strict=True):
        try:
            texts.append(None if content is None else content.decode("utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"{folder / name} is not UTF-8 text: copy or fetch it again") from None
    return texts


def read_file(
    path: Location, max_bytes: int = MAX_TEXT_BYTES, what: str = "metadata"
) -> bytes | None:
    """Read a file or key; None if there is none.

    Parameters
    ----------
    path
        The file or key.
    max_bytes
        Number of bytes that it may have. No more are read.
    what
        Description of what such a file is, for errors.

    Raises
    ------
    InputError
        It cannot be read, or is larger.
    """
    if isinstance(path, S3Path):
        return path.read(max_bytes)
    try:
        return read_regular_file(path, max_bytes, what)
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
    return [
        None if text is None else parse_metadata(text, folder / name, WRITE_AGAIN)
        for name, text in texts
    ]


def parse_metadata(content: str | bytes, path: object, advice: str) -> Metadata:
    """Parse a JSON file of attributes.

    Parameters
    ----------
    content
        Its content.
    path
        Where it lies, for messages.
    advice
        What to do about a broken file, for messages.

    Raises
    ------
    InputError
        The file is empty, is not JSON, or does not hold attributes by name.
    """
    if not content.strip():
        raise InputError(f"{path} is empty: {advice}")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): {advice}") from None
    if not isinstance(value, dict):
        raise InputError(
            f"{path} must hold attributes by name, not {type(value).__name__}: {advice}"
        )
    return value
