import errno
import os

import pytest

from cellmap_pipeline.errors import UnavailableError
from cellmap_pipeline.io.files import (
    atomic_folder,
    atomic_write,
    reading,
    replace_folder,
    write_json,
)
from tests.support.spoiled import pattern

UNAVAILABLE = (
    "last.ckpt cannot be read now (…): check its disk and your access to it, and start again; it "
    "was left as it is"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.csv"


@pytest.mark.parametrize("before", [None, "old"])
def test_failing_write_changes_nothing(path, before):
    if before:
        path.write_text(before)
    with pytest.raises(KeyError), atomic_write(path) as tmp:
        tmp.write_text("half")
        raise KeyError
    assert (path.read_text() if path.exists() else None) == before
    assert list(path.parent.iterdir()) == ([path] if before else [])


def test_file_appears_when_it_is_complete(path):
    path.write_text("old")
    with atomic_write(path) as tmp:
        tmp.write_text("new")
        assert tmp.name == "scores.csv.partial"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_writers_of_the_same_file_need_not_share_the_temporary_file(path):
    with atomic_write(path, suffix=".1") as first, atomic_write(path, suffix=".2") as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fsync", [False, True])
def test_file_is_flushed_before_it_is_moved(path, monkeypatch, fsync):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda _: flushed.append(path.exists()))
    with atomic_write(path, fsync=fsync) as tmp:
        tmp.write_text("a")
    assert flushed == ([False] if fsync else [])


def test_block_that_writes_nothing_fails(path):
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass


def test_folder_is_replaced_as_a_whole(tmp_path):
    path, left = tmp_path / "a/crop1", tmp_path / "a/crop1.partial"
    for folder, name in ((path, "old"), (left, "left by a killed job")):
        folder.mkdir(parents=True)
        (folder / name).touch()
    with pytest.raises(KeyError), atomic_folder(path) as tmp:
        assert list(tmp.iterdir()) == []
        (tmp / "half").touch()
        raise KeyError
    assert [file.name for file in path.iterdir()] == ["old"]
    with atomic_folder(path) as tmp:
        (tmp / "new").touch()
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(path.parent.iterdir()) == [path]


def test_finished_folder_becomes_the_result(tmp_path):
    tmp, path = tmp_path / "crop1.partial", tmp_path / "crop1"
    for folder in (tmp, path):
        folder.mkdir()
        (folder / folder.name).touch()
    replace_folder(tmp, path)
    assert list(tmp_path.rglob("*")) == [path, path / "crop1.partial"]


def test_json(path):
    write_json(path, {"classes": ["mito"]})
    assert path.read_bytes() == b'{\n "classes": [\n  "mito"\n ]\n}\n'
    write_json(path, {}, end="")
    assert path.read_bytes() == b"{}"
    with pytest.raises(TypeError):
        write_json(path, {"path": path})
    assert path.read_bytes() == b"{}"


def system_error(number):
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error",
    [
        *map(system_error, (errno.EIO, errno.ESTALE, errno.EACCES, errno.ENODEV, errno.ENOMEM)),
    ],
    ids=repr,
)
def test_a_failing_disk_is_no_broken_file(error):
    with pytest.raises(UnavailableError, match=pattern(UNAVAILABLE)), reading("last.ckpt"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        *map(system_error, (errno.ENOENT, errno.EISDIR, errno.EINVAL)),
        OSError("Invalid data stream"),
        RuntimeError("failed finding central directory"),
        ValueError(),
    ],
    ids=repr,
)
def test_errors_of_the_path_or_the_content_are_raised_as_they_are(error):
    with pytest.raises(type(error)) as raised, reading("last.ckpt"):
        raise error
    assert raised.value is error
