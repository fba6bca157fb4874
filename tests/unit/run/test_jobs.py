import errno
import io
import logging
import os
import re
import sys

import pytest

from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.run import jobs
from cellmap_pipeline.run.jobs import job
from cellmap_pipeline.run.locking import locks
from tests.support.spoiled import pattern

REMEDY = (
    "free some space, or set TMPDIR to another folder if that of temporary files is full, and "
    "start again; finished work is kept"
)
DISK_FULL = f"error: the disk is full (…): {REMEDY}"
NO_QUOTA = f"error: your disk quota is used up (…): {REMEDY}"


@pytest.fixture
def log(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs/a.log"


def test_lock_file_names_the_outputs(log):
    with job(str(log), ["results/a", "results/b"]):
        logging.info("working")
        owner = locks.read_holder(log.with_suffix(".owner"))
        assert owner.outputs == ("results/a", "results/b")
    assert "working" in log.read_text()
    assert locks.is_released(log.with_suffix(".owner"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("a.csv has no rows: add one"), "error: a.csv has no rows: add one\n"),
        (UnavailableError("a.csv: look"), "error: a.csv: look\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DISK_FULL),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), NO_QUOTA),
        # Libraries have exceptions of their own.
        (ValueError("writing failed: Disk quota exceeded [EDQUOT]"), NO_QUOTA),
        (KeyError("crop9"), "KeyError: 'crop9'"),
    ],
    ids=str,
)
def test_log_states_the_error(log, error, message):
    with pytest.raises(SystemExit) as ended, job(str(log), [str(log.parent / "out")]):
        raise error
    assert ended.value.code == 1
    assert re.search(pattern(message), log.read_text())
    assert ("Traceback" in log.read_text()) == isinstance(error, KeyError)
    assert not log.with_suffix(".owner").exists()


def test_processes_of_a_distributed_training_share_the_lock(log, monkeypatch):
    with job(str(log)):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with job(str(log)):
            logging.warning("from the second")
        monkeypatch.delenv("LOCAL_RANK")
        print("from the first", file=sys.stderr)
    assert re.search("from the second\nfrom the first", log.read_text())


def test_processes_of_other_nodes_print_to_the_first_one(log, monkeypatch):
    with job(str(log)):
        monkeypatch.setenv(jobs.OTHER_NODE, "null")
        with job(str(log)):
            logging.info("started")
            logging.warning("from the other node")
    assert log.read_text().count("from the other node") == 1
    assert "started" not in log.read_text()


class ClosedTerminal(io.StringIO):
    """A terminal that was closed."""

    def write(self, text):
        raise BrokenPipeError


def test_job_continues_without_its_terminal(log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", ClosedTerminal())
    with job(str(log)):
        print("still here", file=sys.stderr)
    assert "still here" in log.read_text()


def test_a_full_disk_is_reported_even_if_temporary_files_have_no_folder(log, monkeypatch):
    def fail():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(jobs, "gettempdir", fail)
    with pytest.raises(SystemExit), job(str(log), [str(log.parent / "out")]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert log.read_text().startswith(f"error: the disk is full ({log.parent}: ")


def test_other_folders_that_a_job_writes_to_are_named_when_a_disk_is_full(log, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(SystemExit), job(str(log), [str(log.parent / "out")], [str(data)]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert f"{data}: " in log.read_text()


def test_names_that_are_not_utf_8_are_logged(log):
    with job(str(log)):
        print(os.fsdecode(b"caf\xe9.zarr"), file=sys.stderr)
    assert "caf\\udce9.zarr" in log.read_text()
