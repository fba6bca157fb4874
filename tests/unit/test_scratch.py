"""Scratch folders: gone with the process that made them, however it ended."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest
from runs import wait_until

from cellmap_pipeline.scratch import scratch

SCRIPT = """
import time

from cellmap_pipeline.scratch import scratch

with scratch() as folder:
    (folder / "large").mkdir()
    time.sleep(600)
"""


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Starts a process with a scratch folder, the only thing in a folder of temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    processes = []

    def start():
        process = subprocess.Popen([sys.executable, "-c", SCRIPT])
        processes.append(process)
        wait_until(lambda: list(tmp_path.glob("*/large")), process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def end(process, number):
    process.send_signal(number)
    assert process.wait() == -number


def test_sigterm_removes_it(begin, tmp_path):
    process = begin()
    end(process, signal.SIGTERM)
    assert os.listdir(tmp_path) == []


def test_the_next_one_removes_what_a_kill_left(begin, tmp_path):
    process = begin()
    with scratch():
        assert len(os.listdir(tmp_path)) == 2, "a living process's"
    assert len(os.listdir(tmp_path)) == 1
    end(process, signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 1
    with scratch() as folder:
        assert os.listdir(tmp_path) == [folder.name]
    assert os.listdir(tmp_path) == []


def test_what_else_is_there_stays(begin, tmp_path):
    for name in ("cellmap-mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").touch()
    with scratch():
        pass
    assert sorted(os.listdir(tmp_path)) == ["cellmap-mine", "other"]


def test_afterwards_the_signal_is_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), scratch():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before
