"""Scratch folders are removed however their process ended."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.run import scratch as module
from cellmap_pipeline.run.scratch import scratch
from tests.support.runs import wait_until
from tests.support.spoiled import pattern

NO_FOLDER = (
    "No usable temporary directory found in …: free some space in one of them, or set TMPDIR to "
    "another folder"
)
SCRIPT = """
from functools import partial

import numpy as np

from cellmap_pipeline.segmentation.blocks import ScratchVolume, split_into_blocks
from cellmap_pipeline.run.pools import workers
from cellmap_pipeline.run.scratch import scratch

SHAPE = (64_000, 64, 64)


def write(volume, block):
    volume.write(block.start, np.random.default_rng(0).integers(0, 9, block.shape, np.uint8))


if __name__ == "__main__":
    with scratch() as folder, workers(2) as pool:
        write_ = partial(write, ScratchVolume(folder / "large", SHAPE, "uint8"))
        list(pool.run(write_, split_into_blocks(SHAPE, 64), "blocks"))
"""


@pytest.fixture
def temporary():
    """A folder for temporary files with a short name, as it also holds sockets."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield Path(name)


def folders(temporary):
    """Names in the folder, except those of Python's multiprocessing."""
    return sorted(name for name in os.listdir(temporary) if not name.startswith("pymp-"))


@pytest.fixture
def begin(tmp_path, temporary, monkeypatch):
    """A function that starts a process whose workers write to a scratch folder."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    processes = []

    def start():
        process = subprocess.Popen([sys.executable, script])
        processes.append(process)
        wait_until(lambda: list(temporary.glob("*/files/large/**/*")), process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def end(process, number):
    process.send_signal(number)
    assert process.wait() == -number


def test_sigterm_removes_the_folder(begin, temporary):
    process = begin()
    end(process, signal.SIGTERM)
    assert folders(temporary) == []


def test_next_job_removes_the_folder_of_a_killed_one(begin, temporary):
    process = begin()
    with scratch():
        assert len(folders(temporary)) == 2, "the folder of a living process is kept"
    assert len(folders(temporary)) == 1
    end(process, signal.SIGKILL)
    assert len(folders(temporary)) == 1
    with scratch() as folder:
        assert folders(temporary) == [folder.parent.name]
    assert folders(temporary) == []


def test_other_folders_are_kept(begin, temporary):
    for name in ("cellmap-mine", "other"):
        (temporary / name).mkdir()
        (temporary / name / "notes").touch()
    with scratch():
        pass
    assert folders(temporary) == ["cellmap-mine", "other"]


def test_signal_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), scratch():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_folder_is_used_if_tmpdir_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with scratch() as folder:
        assert folder.is_dir() and tmp_path not in folder.parents


def test_error_without_any_temporary_folder_says_what_to_do(monkeypatch):
    def fail():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(module, "gettempdir", fail)
    with pytest.raises(InputError, match=pattern(NO_FOLDER)), scratch():
        pass
