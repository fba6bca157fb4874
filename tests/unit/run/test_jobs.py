import errno
import io
import json
import logging
import sys

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.files import whole, write_json
from cellmap_pipeline.run import locks as ownership
from cellmap_pipeline.run.jobs import job


@pytest.fixture
def log(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs/a.log"


def test_a_job_says_who_makes_what(log):
    with job(str(log), ["results/a", "results/b"]):
        logging.info("working")
        owner = ownership.read(log.with_suffix(".owner"))
        assert owner.outputs == ("results/a", "results/b")
    assert "working" in log.read_text()
    assert ownership.is_ended(log.with_suffix(".owner"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("a.csv has no rows: add one"), "error: a.csv has no rows: add one\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk is full ("),
        (KeyError("crop9"), "KeyError: 'crop9'"),
    ],
)
def test_how_a_job_fails_stands_in_its_log(log, error, said):
    with pytest.raises(SystemExit) as ended, job(str(log), [str(log.parent / "out")]):
        raise error
    assert ended.value.code == 1
    assert said in log.read_text()
    assert ("Traceback" in log.read_text()) == isinstance(error, KeyError)
    assert not log.with_suffix(".owner").exists()


def test_processes_that_train_together_have_one_owner(log, monkeypatch):
    with job(str(log)):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with job(str(log)):
            logging.warning("from the second")
    assert "from the second" in log.read_text()


class Gone(io.StringIO):
    """The terminal of somebody who has left."""

    def write(self, text):
        raise BrokenPipeError


def test_a_job_outlives_its_terminal(log, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone())
    with job(str(log)):
        print("still here", file=sys.stderr)
    assert "still here" in log.read_text()


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(KeyError), whole(path) as beside:
        beside.write_text("half")
        raise KeyError
    assert not path.exists()
    write_json({"a": 1}, path)
    assert json.loads(path.read_text()) == {"a": 1}
