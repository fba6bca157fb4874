import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from snakemake.persistence.file import FilePersistence

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.run import locks as ownership
from cellmap_pipeline.run import restart as running
from cellmap_pipeline.run.locks import claim, read, this_process

LONG = "results/" + "a" * 200 + "/predictions/" + "b" * 200


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory, and no patience."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ownership, "SILENCE", 0.5)
    monkeypatch.setattr(running, "POLL", 0.02)
    monkeypatch.setattr(running, "_slurm_jobs", lambda folder: None)
    return tmp_path


@pytest.mark.parametrize("output", ["submission.zip", "results/tiny/model.ckpt", LONG])
def test_where_snakemake_keeps_its_notes(output):
    notes = FilePersistence(path=Path(".snakemake").absolute())
    notes._mark_incomplete(output, None)
    assert (Path(".snakemake/incomplete") / running._file_of(output)).is_file()


def note(output):
    """What Snakemake notes of an output."""
    path = Path(".snakemake/metadata") / running._file_of(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def ended(name, *outputs):
    """A job that made these, with nobody there who noted it."""
    path = Path(f"results/logs/{name}.owner")
    claim(path, replace(this_process(outputs), ended=True))
    return path


@pytest.fixture
def outputs():
    """A folder, a file and a link."""
    Path("results/crop1").mkdir(parents=True)
    Path("results/crop1/done.json").write_text("")
    Path("results/scores.csv").write_text("a")
    os.symlink("results/scores.csv", "scores.csv")
    return ["results/crop1", "results/scores.csv", "scores.csv"]


def test_what_nobody_noted_is_put_aside(outputs):
    note("another")
    path = ended("job", *outputs)
    running._settle(Path(), Path("results/logs"))
    assert Path("results/crop1.partial/done.json").exists()
    assert not any(os.path.lexists(output) for output in [*outputs, path])


def test_what_snakemake_noted_stays(outputs):
    path = ended("job", *outputs)
    for output in outputs:
        os.utime(note(output), ns=(path.stat().st_mtime_ns,) * 2)
    running.forget_noted(Path("results/logs"))
    assert not path.exists()
    assert all(os.path.lexists(output) for output in outputs)


@pytest.mark.parametrize("spoil", ["older", "incomplete"])
def test_a_note_about_something_else_does_not_count(outputs, spoil):
    path = ended("job", "results/crop1")
    made = note("results/crop1")
    if spoil == "older":
        os.utime(made, (1, 1))
    else:
        mark = Path(".snakemake/incomplete") / running._file_of("results/crop1")
        mark.parent.mkdir()
        mark.write_text("{}")
    running.forget_noted(Path("results/logs"))
    assert path.exists()
    running._settle(Path(), Path("results/logs"))
    assert Path("results/crop1.partial").exists()


def test_results_that_came_from_elsewhere_stay(outputs):
    """Without the notes of the Snakemake that made them."""
    ended("job", *outputs)
    running._settle(Path(), Path("results/logs"))
    assert all(os.path.lexists(output) for output in outputs)


def test_a_living_run_is_not_disturbed():
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(
        this_process(), pid=other.pid, started=ownership._started(other.pid), logs="results/logs"
    )
    claim(running.RUN, owner)
    with pytest.raises(InputError, match=f"a run lives in this folder: process {other.pid} on "):
        running.start(["submission.zip"])
    other.communicate(b"\n")
    # After its death the next one takes over what it knew.
    stop, before = running._alone(running.RUN)
    stop()
    assert before == owner
    assert (read(running.RUN).pid, read(running.RUN).logs) == (os.getpid(), "results/logs")


def test_a_run_on_another_machine_lives_if_it_gives_a_sign(monkeypatch, capsys):
    far = replace(this_process(), machine="far away", host="far")
    claim(running.RUN, far)
    signs = count(1)

    def beat(_):
        sign = next(signs)
        os.utime(running.RUN, (sign, sign))

    monkeypatch.setattr(time, "sleep", beat)
    with pytest.raises(InputError, match="on far"):
        running._alone(running.RUN)
    assert "waiting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "plans"),
    [
        (["-n"], True),
        (["--dry-run", "all"], True),
        (["--dryrun"], True),
        (["-pn", "all"], True),
        (["--profile", "slurm", "submission.zip"], False),
        (["--cores", "2", "--notemp"], False),
    ],
)
def test_a_plan_needs_no_care(arguments, plans):
    assert running._only_plans(arguments) == plans


def test_the_folder_may_be_another():
    assert running._options(["-d", "there", "all"]).directory == Path("there")
    assert running._options(["--directory=there"]).directory == Path("there")
    assert running._options(["--cores", "2", "all"]).directory == Path()


SQUEUE = """#!/bin/sh
cat << END
1|RUNNING|0f0e0d0c-0000-4000-8000-000000000000|rule_train_wildcards_a|{here}
2|PENDING|lab_0f0e0d0c-0000-4000-8000-000000000000|group_crop_a_1_segment|{here}
3|RUNNING|0f0e0d0c-0000-4000-8000-000000000000|rule_train|/elsewhere
4|RUNNING|bash|(null)|{here}
5|RUNNING|0f0e0d0c-0000-4000-8000-000000000000|rule_all|{here}
END
"""


def test_which_jobs_in_slurms_queue_are_of_this_folder(here, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(here)
    (here / "squeue").write_text(SQUEUE.format(here=here))
    (here / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(here), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    jobs = running._slurm_jobs(Path())
    assert [(job.number, job.state) for job in jobs] == [("1", "RUNNING"), ("2", "PENDING")]
