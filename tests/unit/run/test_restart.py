import errno
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
from cellmap_pipeline.run import restart
from cellmap_pipeline.run.locking import locks
from cellmap_pipeline.run.locking.locks import read_holder, this_process, try_acquire
from cellmap_pipeline.run.locking.processes import start_time

LONG = "results/" + "a" * 200 + "/predictions/" + "b" * 200


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """An empty working directory, and short waiting times."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locks, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(restart, "POLL_S", 0.02)
    monkeypatch.setattr(restart, "_slurm_jobs", lambda folder: None)
    return tmp_path


@pytest.mark.parametrize("output", ["submission.zip", "results/tiny/model.ckpt", LONG])
def test_records_have_the_names_that_snakemake_gives_them(output):
    records = FilePersistence(path=Path(".snakemake").absolute())
    records._mark_incomplete(output, None)
    assert (Path(".snakemake/incomplete") / restart._record_name(output)).is_file()


def record(output):
    """Write the record that Snakemake keeps of an output."""
    path = Path(".snakemake/metadata") / restart._record_name(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


def finish(name, *outputs):
    """Write the lock file of a job that made outputs and finished after its run had died."""
    path = Path(f"results/logs/{name}.owner")
    try_acquire(path, replace(this_process(outputs), ended=True))
    return path


@pytest.fixture
def outputs():
    """Outputs of three kinds: a folder, a file and a link."""
    Path("results/crop1").mkdir(parents=True)
    Path("results/crop1/done.json").write_text("")
    Path("results/scores.csv").write_text("a")
    os.symlink("results/scores.csv", "scores.csv")
    return ["results/crop1", "results/scores.csv", "scores.csv"]


def test_unrecorded_outputs_are_set_aside(outputs):
    record("another")
    path = finish("job", *outputs)
    restart._clean_up(Path(), Path("results/logs"), {})
    assert Path("results/crop1.partial/done.json").exists()
    assert not any(os.path.lexists(output) for output in [*outputs, path])


def test_jobs_of_a_run_in_another_folder_are_left_alone(outputs, tmp_path_factory):
    """Two runs have the same `output`, which is in neither folder."""
    record("another")
    other, shared = tmp_path_factory.mktemp("other"), tmp_path_factory.mktemp("shared")
    outputs = [*map(os.path.abspath, outputs)]
    path, running = shared / "logs/job.owner", shared / "logs/running.owner"
    of_other = replace(this_process(outputs), folder=str(other))
    try_acquire(path, replace(of_other, ended=True))
    try_acquire(running, of_other)
    writing = shared / f"logs/new.owner.{of_other.token}"
    writing.touch()
    restart._clean_up(Path(), shared / "logs", {})
    restart.remove_recorded_locks(shared / "logs")
    assert all(os.path.lexists(output) for output in [*outputs, path, running, writing])
    # Of a folder that is gone, nothing else knows what was recorded.
    running.unlink()
    other.rmdir()
    restart._clean_up(Path(), shared / "logs", {})
    assert not any(os.path.lexists(output) for output in [*outputs, path])


def test_locks_in_a_copied_folder_are_its_own(outputs, tmp_path):
    record("another")
    path = finish("job", *outputs)
    original = tmp_path / "original"
    original.mkdir()
    locks.update(path, replace(locks.read_holder(path), folder=str(original)))
    restart._clean_up(Path(), Path("results/logs"), {})
    assert not any(os.path.lexists(output) for output in [*outputs, path])


def test_a_folder_of_another_user_is_not_this_runs(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os.path, "samefile", refuse)
    holder = replace(this_process(), folder="/home/else/run")
    assert not locks.is_of_run(holder, Path("/shared/logs/a.owner"), tmp_path)


def test_recorded_outputs_are_kept(outputs):
    path = finish("job", *outputs)
    for output in outputs:
        os.utime(record(output), ns=(path.stat().st_mtime_ns,) * 2)
    restart.remove_recorded_locks(Path("results/logs"))
    assert not path.exists()
    assert all(os.path.lexists(output) for output in outputs)


def test_output_that_cannot_be_inspected_now_is_not_considered_absent(outputs, monkeypatch):
    record("another")
    path = finish("job", "results/crop1")
    stat = os.stat

    def fail_there(place, *arguments, **options):
        if str(place) == "results/crop1":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat(place, *arguments, **options)

    monkeypatch.setattr(os, "stat", fail_there)
    monkeypatch.setattr(os, "lstat", fail_there)
    with pytest.raises(OSError, match="Stale file handle"):
        restart._clean_up(Path(), Path("results/logs"), {})
    assert path.exists()


@pytest.mark.parametrize("spoil", ["older", "incomplete"])
def test_outdated_or_incomplete_records_do_not_count(outputs, spoil):
    path = finish("job", "results/crop1")
    made = record("results/crop1")
    if spoil == "older":
        os.utime(made, (1, 1))
    else:
        mark = Path(".snakemake/incomplete") / restart._record_name("results/crop1")
        mark.parent.mkdir()
        mark.write_text("{}")
    restart.remove_recorded_locks(Path("results/logs"))
    assert path.exists()
    restart._clean_up(Path(), Path("results/logs"), {})
    assert Path("results/crop1.partial").exists()


def test_results_without_any_records_are_kept(outputs):
    """Such results were copied without Snakemake's folder."""
    finish("job", *outputs)
    restart._clean_up(Path(), Path("results/logs"), {})
    assert all(os.path.lexists(output) for output in outputs)


def test_second_run_in_a_folder_is_refused():
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(
        this_process(), pid=other.pid, started=start_time(other.pid), logs="results/logs"
    )
    try_acquire(restart.RUN_LOCK, owner)
    with pytest.raises(
        InputError, match=f"another run is active in this folder: process {other.pid} on "
    ):
        restart.start(["submission.zip"])
    other.communicate(b"\n")
    # After the run has died, the next one gets its log folder.
    stop, previous = restart._acquire_run_lock(Path(), {})
    stop()
    assert previous == owner
    assert (read_holder(restart.RUN_LOCK).pid, read_holder(restart.RUN_LOCK).logs) == (
        os.getpid(),
        "results/logs",
    )


def test_run_on_another_machine_is_active_if_it_has_a_heartbeat(monkeypatch, capsys):
    far = replace(this_process(), machine="far away", host="far")
    try_acquire(restart.RUN_LOCK, far)
    times = count(1)

    def beat(_):
        now = next(times)
        os.utime(restart.RUN_LOCK, (now, now))

    monkeypatch.setattr(time, "sleep", beat)
    with pytest.raises(InputError, match="on far"):
        restart._acquire_run_lock(Path(), {})
    assert "waiting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-n"], True),
        (["--dry-run", "all"], True),
        (["--dryrun"], True),
        (["-pn", "all"], True),
        (["--profile", "slurm", "submission.zip"], False),
        (["--cores", "2", "--notemp"], False),
    ],
    ids=str,
)
def test_dry_runs_are_recognized(arguments, expected):
    assert restart._is_dry_run(arguments) == expected


def test_folder_is_read_from_the_options():
    assert restart._options(["-d", "there", "all"]).directory == Path("there")
    assert restart._options(["--directory=there"]).directory == Path("there")
    assert restart._options(["--cores", "2", "all"]).directory == Path()


SQUEUE = """#!/bin/sh
cat << END
1|RUNNING|0f0e0d0c-0000-4000-8000-000000000000|rule_train_wildcards_a|{here}
2|PENDING|lab_0f0e0d0c-0000-4000-8000-000000000000|group_crop_a_1_segment|{here}
3|RUNNING|0f0e0d0c-0000-4000-8000-000000000000|rule_train|/elsewhere
4|RUNNING|bash|(null)|{here}
5|RUNNING|0f0e0d0c-0000-4000-8000-000000000000|rule_all|{here}
END
"""


def test_only_slurm_jobs_of_this_folder_are_found(empty_folder, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(empty_folder)
    (empty_folder / "squeue").write_text(SQUEUE.format(here=empty_folder))
    (empty_folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(empty_folder), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    jobs = restart._slurm_jobs(Path())
    assert [(job.number, job.state) for job in jobs] == [("1", "RUNNING"), ("2", "PENDING")]


def test_a_silent_run_and_its_jobs_are_waited_for_at_the_same_time(monkeypatch, capsys):
    monkeypatch.setattr(locks, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(restart, "POLL_S", 0.05)
    far = replace(this_process(), machine="far away", host="far", pid=7, logs="results/logs")
    try_acquire(restart.RUN_LOCK, far)
    job = Path("results/logs/train/a.owner")
    try_acquire(job, replace(far, token="job", pid=8))
    start = time.monotonic()
    watches = {}
    stop, previous = restart._acquire_run_lock(Path(), watches)
    stop()
    restart._clean_up(Path(), Path(previous.logs), watches)
    assert 1 <= time.monotonic() - start < 1.8
    assert not job.exists()
    message = capsys.readouterr().err
    assert "waiting for the end, or a heartbeat, of process 7 on far" in message
    assert "it may have ended" in message and "counts as dead after 1 s" in message
