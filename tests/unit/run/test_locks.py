import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from cellmap_pipeline.run import locks as ownership
from cellmap_pipeline.run.locks import (
    LOST,
    Watch,
    bury,
    claim,
    is_ended,
    lives,
    owned,
    read,
    this_process,
)

PROGRAM = """
import sys, time
from pathlib import Path
from cellmap_pipeline.run import locks as ownership
ownership.BEAT, ownership.POLL = 0.05, 0.05
with ownership.owned(Path(sys.argv[1])):
    print("mine", flush=True)
    {then}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ownership, "BEAT", 0.05)
    monkeypatch.setattr(ownership, "POLL", 0.05)
    monkeypatch.setattr(ownership, "SILENCE", 1.0)


def process(path, then="sys.stdin.read()"):
    """Another process that owns `path` until its input ends."""
    made = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(then=then), str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return made


def elsewhere(**changes):
    """An owner on another machine."""
    return replace(this_process(), host="far", machine="far away", **changes)


def test_who_ended_leaves_a_note_and_who_failed_none(tmp_path):
    path = tmp_path / "logs/a.owner"
    with owned(path, ["results/a"]):
        assert read(path).outputs == ("results/a",)
        assert not is_ended(path)
    assert is_ended(path)
    with pytest.raises(KeyError), owned(path):
        raise KeyError
    assert list(path.parent.iterdir()) == []


def test_only_one_of_many_is_the_owner(tmp_path):
    path, inside, most = tmp_path / "a.owner", [], []

    def work():
        with owned(path):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert [p.name for p in tmp_path.iterdir()] == ["a.owner"]


def test_a_living_process_is_waited_for(tmp_path):
    path = tmp_path / "a.owner"
    other = process(path)
    assert other.stdout.readline() == "mine\n"
    assert lives(read(path))
    threading.Timer(0.5, other.stdin.close).start()
    begin = time.monotonic()
    with owned(path):
        assert time.monotonic() - begin > 0.4
    other.wait()


def test_a_killed_process_is_not(tmp_path):
    path = tmp_path / "a.owner"
    other = process(path)
    other.stdout.readline()
    other.kill()
    # Not even before its parent takes note of its end.
    while lives(read(path)):
        time.sleep(0.01)
    with owned(path):
        assert read(path).pid == os.getpid()
    other.wait()


def test_another_process_of_the_same_number_is_not_the_owner():
    mine = this_process()
    assert lives(mine)
    assert not lives(replace(mine, started=mine.started - 1))


def test_an_owner_elsewhere_lives_as_long_as_it_gives_signs(tmp_path):
    path = tmp_path / "a.owner"
    claim(path, elsewhere())
    watch = Watch(path)
    assert watch.living() and not watch.alive
    for second in range(1, 4):
        os.utime(path, (second, second))
        assert watch.living() and watch.alive
    time.sleep(1.1)
    assert watch.living() is None
    with owned(path):
        pass


def test_who_died_while_it_removed_a_dead_one_is_in_nobodys_way(tmp_path):
    path = tmp_path / "a.owner"
    dead = replace(this_process(), started=0)
    claim(path, dead)
    claim(tmp_path / f"a.owner.{dead.token}.dead", replace(this_process(), started=0))
    with owned(path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a.owner"]


def test_only_the_dead_one_is_removed(tmp_path):
    path = tmp_path / "a.owner"
    claim(path, this_process())
    bury(path, this_process())
    assert read(path) is not None


SQUEUE = """#!/bin/sh
case "$*" in *--jobs=7) echo {state}; exit ;; esac
echo "slurm_load_jobs error: Invalid job id specified" >&2
exit 1
"""


@pytest.mark.parametrize(
    ("job", "state", "expected"),
    [
        ("7", "RUNNING", None),
        ("7", "SUSPENDED", True),
        ("7", "PENDING", False),
        ("7", "TIMEOUT", False),
        ("8", "", False),
    ],
)
def test_slurm_knows_which_jobs_are_over(tmp_path, monkeypatch, job, state, expected):
    (tmp_path / "squeue").write_text(SQUEUE.format(state=state))
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert lives(elsewhere(slurm_job=job)) is expected
    # The same job on another node, after a requeue.
    monkeypatch.setenv("SLURM_JOB_ID", job)
    assert lives(elsewhere(slurm_job=job)) is False


def test_without_slurm_only_signs_of_life_count(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert lives(elsewhere(slurm_job="7")) is None


@pytest.mark.parametrize("content", ["", '{"host": "a"', '{"host": "a"}', "[]", "null"])
def test_a_file_that_was_cut_short_is_nobodys(tmp_path, monkeypatch, content):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    path = tmp_path / "a.owner"
    path.write_text(content)
    with owned(path):
        assert read(path).pid == os.getpid()


def test_who_stood_still_and_lost_it_ends_at_once(tmp_path):
    path = tmp_path / "a.owner"
    other = process(path, then="time.sleep(60)")
    other.stdout.readline()
    ownership.change(path, this_process())
    assert other.wait(10) == LOST
    assert "belongs to process" in other.stderr.read()
    assert read(path).pid == os.getpid()


def test_a_removed_file_comes_back(tmp_path):
    path = tmp_path / "a.owner"
    with owned(path):
        path.unlink()
        while not path.exists():
            time.sleep(0.01)
    assert is_ended(path)


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.owner"
    assert claim(path, this_process())
    assert not claim(path, this_process())
    assert json.loads(path.read_text())["pid"] == os.getpid()
