"""Entries that overlap, as newer releases of Python refuse to unpack them (CVE-2024-0450)."""

import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.scoring.archive import Archive
from cellmap_pipeline.submission.check import check
from tests.support import hostile

# Reads all entries of zips; prints for each zip whether that succeeded.
PROGRAM = """
import json, sys, zipfile
results = []
for path in sys.argv[1:]:
    try:
        with zipfile.ZipFile(path) as archive:
            results.append(archive.testzip() is None)
    except Exception:
        results.append(False)
print(json.dumps(results))
"""
# The first releases that refuse overlapping entries, by minor version.
FIRST_MICRO = {11: 8, 12: 2}


def refuses_overlap(python: str) -> bool:
    command = [python, "-c", "import sys; print(*sys.version_info[:3])"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return False
    _, minor, micro = map(int, done.stdout.split())
    return minor > max(FIRST_MICRO) or micro >= FIRST_MICRO.get(minor, 1000)


@pytest.fixture(scope="module")
def python() -> str:
    """A Python that refuses overlapping entries."""
    names = [sys.executable, *filter(None, map(shutil.which, ("python3.13", "python3.12")))]
    names += map(str, Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    for name in names:
        if refuses_overlap(name):
            return name
    pytest.skip("takes Python 3.11.8, 3.12.2 or newer, whose zipfile refuses overlapping entries")


def quoted(path: Path) -> None:
    """Write an entry whose data are those of two others with their headers."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for name in ("crop1/er/0.0.0", "crop1/er/0.0.1"):
            archive.writestr(name, hostile.CHUNK)
        headers = inner.getvalue()
        quotes = archive.infolist()
    entries = {k: v for k, v in hostile.valid_entries().items() if k not in archive.namelist()}
    hostile.write_zip(path, entries)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("crop1/notes", headers)
        start = archive.getinfo("crop1/notes").header_offset + 30 + len("crop1/notes")
        for entry in quotes:
            entry.header_offset += start
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry


def moved(name: str, distance: int) -> hostile.Callable[[Path], None]:
    """Write a zip whose directory has another offset of an entry."""

    def change(content: bytearray) -> None:
        at = hostile.directory_entry(content, name) + 42
        (offset,) = struct.unpack_from("<L", content, at)
        struct.pack_into("<L", content, at, offset + distance)

    return hostile.patched(change)


def longer(name: str, distance: int) -> hostile.Callable[[Path], None]:
    """Write a zip with an entry that reaches into the next one, or the directory."""

    def change(content: bytearray) -> None:
        for at in (
            hostile.directory_entry(content, name) + 20,
            hostile.local_header(content, name) + 18,
        ):
            for field in (at, at + 4):
                (size,) = struct.unpack_from("<L", content, field)
                struct.pack_into("<L", content, field, size + distance)

    return hostile.patched(change)


ZIPS = {
    "valid": hostile.patched(lambda content: None),
    "the same data twice": hostile.patched(hostile.same_data_twice),
    "quoted headers": quoted,
    "into the next entry": longer("crop1/er/0.0.0", 1),
    "over the next entry": longer("crop1/er/0.0.0", 700),
    "into the directory": longer("crop1/mito/1.1.1", 1),
    "at another place": moved("crop1/er/0.0.1", 1),
}


def test_overlap_is_refused_as_by_newer_releases_of_python(python: str, tmp_path: Path) -> None:
    paths = {}
    for name, write in ZIPS.items():
        paths[name] = tmp_path / f"{name}.zip"
        write(paths[name])
    done = subprocess.run(
        [python, "-c", PROGRAM, *map(str, paths.values())],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    theirs = dict(zip(paths, json.loads(done.stdout), strict=True))
    assert theirs == {name: name == "valid" for name in ZIPS}
    for name, path in paths.items():
        rejected = [p for p in check(path, hostile.MANIFEST) if p.severity == "rejected"]
        assert bool(rejected) == (not theirs[name]), name
        try:
            Archive.open(path).verify(hostile.MANIFEST)
            is_read = True
        except InputError:
            is_read = False
        assert is_read == theirs[name], name
