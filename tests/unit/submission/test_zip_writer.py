"""Zips as we write and read them, held against `zipfile`."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.scoring.zip_reader import ZipReader
from cellmap_pipeline.submission import zip_writer
from cellmap_pipeline.submission.zip_writer import Segment, ZipWriter

names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=20)
contents = st.dictionaries(names, st.binary(max_size=200), max_size=8)


def write(path: Path, entries: dict[str, bytes], start: int = 0) -> None:
    with open(path, "wb") as file:
        file.seek(start)
        archive = ZipWriter(file)
        for name, data in entries.items():
            archive.add(Segment.of_bytes(name, data))
        archive.finish()


def read(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


@given(entries=contents)
def test_python_reads_what_is_written(
    entries: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    write(path, entries)
    assert read(path) == entries
    assert dict(ZipReader(path)) == entries


def test_files_go_in_as_bytes_do(tmp_path: Path) -> None:
    entries = {"a": b"", "ä/b": b"x" * 70_000, "c": bytes(range(256))}
    files = []
    for i, (name, data) in enumerate(entries.items()):
        (tmp_path / str(i)).write_bytes(data)
        files.append((name, str(tmp_path / str(i))))
    with open(tmp_path / "files.zip", "wb") as file:
        archive = ZipWriter(file)
        archive.add(Segment.of_files(files))
        archive.finish()
    write(tmp_path / "bytes.zip", entries)
    assert (tmp_path / "files.zip").read_bytes() == (tmp_path / "bytes.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "files.zip") as opened:
        entry = opened.getinfo("ä/b")
    assert entry.date_time == (1980, 1, 1, 0, 0, 0)
    assert entry.external_attr >> 16 == 0o100644
    assert entry.compress_type == zipfile.ZIP_STORED


def test_offsets_above_4_gib(tmp_path: Path) -> None:
    """Behind a hole in a sparse file, which takes no disk."""
    path = tmp_path / "large.zip"
    start = 5 << 30
    write(path, {"a": b"1", "b": b"22"}, start)
    assert path.stat().st_size > start
    assert path.stat().st_blocks * 512 < 1 << 20
    assert read(path) == {"a": b"1", "b": b"22"} == dict(ZipReader(path))
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("b").header_offset > start


def test_more_entries_than_16_bits_count(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    write(path, {f"crop1/mito/{i}.0.0": b"x" for i in range(70_000)})
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 70_000
        assert archive.read("crop1/mito/69999.0.0") == b"x"


def test_limits_at_which_zip64_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {f"{i}": b"x" * 30 for i in range(3)}
    monkeypatch.setattr(zip_writer, "MAX_16", 3)
    write(tmp_path / "entries.zip", entries)
    assert b"PK\6\6" in (tmp_path / "entries.zip").read_bytes()
    monkeypatch.undo()
    write(tmp_path / "plain.zip", entries)
    assert b"PK\6\6" not in (tmp_path / "plain.zip").read_bytes()


def test_an_entry_of_4_gib_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_writer, "MAX_32", 10)
    with pytest.raises(ValueError, match="an entry must have less than 4 GiB"):
        Segment.of_bytes("a", bytes(10))
    (tmp_path / "file").write_bytes(bytes(10))
    with pytest.raises(ValueError, match="less than 4 GiB"):
        Segment.of_files([("a", str(tmp_path / "file"))])


@pytest.mark.parametrize("method", [0, 8, 12, 14])
def test_zips_of_others_are_read(tmp_path: Path, method: int) -> None:
    entries = {"a": b"", "b": b"x" * 10_000}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name, data in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = method
            entry.extra = b"\xff\xff\x50\x00" + bytes(80)
            archive.writestr(entry, data)
    assert dict(ZipReader(tmp_path / "a.zip")) == entries


@pytest.mark.skipif(shutil.which("unzip") is None, reason="no unzip here")
def test_other_tools_read_it(tmp_path: Path) -> None:
    write(tmp_path / "a.zip", {"crop1/er/0.0.0": b"x" * 100})
    done = subprocess.run(["unzip", "-t", str(tmp_path / "a.zip")], capture_output=True, text=True)
    assert "No errors detected" in done.stdout
