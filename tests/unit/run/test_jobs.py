import errno
import io
import logging
import sys

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.run import locks
from cellmap_pipeline.run.jobs import job


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
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk is full ("),
        (KeyError("crop9"), "KeyError: 'crop9'"),
    ],
)
def test_log_states_the_error(log, error, message):
    with pytest.raises(SystemExit) as ended, job(str(log), [str(log.parent / "out")]):
        raise error
    assert ended.value.code == 1
    assert message in log.read_text()
    assert ("Traceback" in log.read_text()) == isinstance(error, KeyError)
    assert not log.with_suffix(".owner").exists()


def test_processes_of_a_distributed_training_share_the_lock(log, monkeypatch):
    with job(str(log)):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with job(str(log)):
            logging.warning("from the second")
    assert "from the second" in log.read_text()


class ClosedTerminal(io.StringIO):
    """A terminal that was closed."""

    def write(self, text):
        raise BrokenPipeError


def test_job_continues_without_its_terminal(log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", ClosedTerminal())
    with job(str(log)):
        print("still here", file=sys.stderr)
    assert "still here" in log.read_text()
