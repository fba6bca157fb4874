"""Reading of zips, compared with `zipfile`."""

import errno
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.errors import UnavailableError
from cellmap_pipeline.scoring import zip_reader
from cellmap_pipeline.scoring.zip_reader import ZipReader, is_zip

names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=20)
contents = st.dictionaries(names, st.binary(max_size=200), max_size=8)


@given(entries=contents)
def test_contents(entries: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    assert dict(ZipReader(path)) == entries


@pytest.mark.parametrize("method", [0, 8, 12, 14])
def test_compression_methods_and_long_extra_fields(tmp_path: Path, method: int) -> None:
    entries = {"a": b"", "b": b"x" * 10_000}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name, data in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            entry.extra = b"\xff\xff\x50\x00" + bytes(80)
            archive.writestr(entry, data)
    assert dict(ZipReader(tmp_path / "a.zip")) == entries


def test_offsets_above_4_gib(tmp_path: Path) -> None:
    """Read entries behind a hole in a sparse file, which takes no disk space."""
    path = tmp_path / "large.zip"
    with open(path, "wb") as file:
        file.seek(5 << 30)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", b"1")
            archive.writestr("b", b"22")
    assert path.stat().st_blocks * 512 < 1 << 20
    reader = ZipReader(path)
    assert reader.by_name["b"].header_offset > 5 << 30
    assert dict(reader) == {"a": b"1", "b": b"22"}


def test_more_entries_than_16_bits_count(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(70_000):
            archive.writestr(zipfile.ZipInfo(f"crop1/mito/{i}.0.0"), b"x")
    reader = ZipReader(path)
    assert len(reader) == 70_000
    assert reader["crop1/mito/69999.0.0"] == b"x"


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_disk_that_fails_makes_no_broken_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
    assert is_zip(path) and not is_zip(tmp_path) and not is_zip(tmp_path / "none")
    reader = ZipReader(path)
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(UnavailableError, match="a.zip cannot be read now .Input/output error"):
        reader["a"]
    for name, call in (("open", is_zip), ("zipfile", ZipReader)):
        with monkeypatch.context() as patch, pytest.raises(UnavailableError, match="a.zip"):
            fails = SimpleNamespace(ZipFile=fail) if name == "zipfile" else fail
            patch.setattr(zip_reader, name, fails, raising=False)
            call(path)
