import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from cellmap_pipeline.run.locking import locks
from cellmap_pipeline.run.locking.locks import (
    LOCK_LOST_EXIT_CODE,
    LockWatch,
    hold,
    is_alive,
    is_released,
    read_holder,
    remove_dead,
    this_process,
    try_acquire,
)
from cellmap_pipeline.run.locking.processes import sees_all_processes
from tests.support.runs import wait_until

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc"]

PROGRAM = """
import sys, time
from pathlib import Path
from cellmap_pipeline.run.locking import locks
locks.HEARTBEAT_S, locks.POLL_S = 0.05, 0.05
with locks.hold(Path(sys.argv[1])):
    print("acquired", flush=True)
    {then}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(locks, "POLL_S", 0.05)
    monkeypatch.setattr(locks, "TIMEOUT_S", 1.0)


def process(path, then="sys.stdin.read()"):
    """Start a process that holds the lock `path` until its input ends."""
    made = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(then=then), str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return made


def remote_process(**changes):
    """A lock holder on another machine."""
    return replace(this_process(), host="far", machine="far away", **changes)


def test_lock_file_remains_after_success_only(tmp_path):
    path = tmp_path / "logs/a.owner"
    with hold(path, ["results/a"]):
        assert read_holder(path).outputs == ("results/a",)
        assert not is_released(path)
    assert is_released(path)
    with pytest.raises(KeyError), hold(path):
        raise KeyError
    assert list(path.parent.iterdir()) == []


def test_one_holder_at_a_time(tmp_path):
    path, inside, counts = tmp_path / "a.owner", [], []

    def work():
        with hold(path):
            inside.append(1)
            counts.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1] * 8
    assert [p.name for p in tmp_path.iterdir()] == ["a.owner"]


def test_living_holder_is_waited_for(tmp_path):
    path = tmp_path / "a.owner"
    other = process(path)
    assert other.stdout.readline() == "acquired\n"
    assert is_alive(read_holder(path))
    threading.Timer(0.5, other.stdin.close).start()
    begin = time.monotonic()
    with hold(path):
        assert time.monotonic() - begin > 0.4
    other.wait()


def test_killed_holder_is_not_waited_for(tmp_path):
    path = tmp_path / "a.owner"
    other = process(path)
    other.stdout.readline()
    other.kill()
    # Even before its parent has collected its exit status.
    while is_alive(read_holder(path)):
        time.sleep(0.01)
    with hold(path):
        assert read_holder(path).pid == os.getpid()
    other.wait()


def test_process_with_a_reused_number_is_not_the_holder():
    mine = this_process()
    assert is_alive(mine)
    assert not is_alive(replace(mine, started=mine.started - 1))


def test_remote_holder_is_alive_while_it_has_a_heartbeat(tmp_path):
    path = tmp_path / "a.owner"
    try_acquire(path, remote_process())
    watch = LockWatch(path)
    assert watch.living_holder() and not watch.confirmed
    for second in range(1, 4):
        os.utime(path, (second, second))
        assert watch.living_holder() and watch.confirmed
    time.sleep(1.1)
    assert watch.living_holder() is None
    with hold(path):
        pass


def test_death_while_removing_a_dead_lock_is_cleaned_up(tmp_path):
    path = tmp_path / "a.owner"
    dead = replace(this_process(), started=0)
    try_acquire(path, dead)
    try_acquire(tmp_path / f"a.owner.{dead.token}.dead", replace(this_process(), started=0))
    with hold(path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a.owner"]


def test_lock_of_another_holder_is_not_removed(tmp_path):
    path = tmp_path / "a.owner"
    try_acquire(path, this_process())
    remove_dead(path, this_process())
    assert read_holder(path) is not None


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
def test_slurm_tells_which_jobs_are_alive(tmp_path, monkeypatch, job, state, expected):
    (tmp_path / "squeue").write_text(SQUEUE.format(state=state))
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert is_alive(remote_process(slurm_job=job)) is expected
    # The same job on another node, after a requeue.
    monkeypatch.setenv("SLURM_JOB_ID", job)
    assert is_alive(remote_process(slurm_job=job)) is False


def test_without_slurm_only_the_heartbeat_tells(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert is_alive(remote_process(slurm_job="7")) is None


@pytest.mark.parametrize("content", ["", '{"host": "a"', '{"host": "a"}', "[]", "null"])
def test_truncated_lock_file_counts_as_released(tmp_path, monkeypatch, content):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    path = tmp_path / "a.owner"
    path.write_text(content)
    with hold(path):
        assert read_holder(path).pid == os.getpid()


def test_suspended_process_exits_when_it_has_lost_the_lock(tmp_path):
    path = tmp_path / "a.owner"
    other = process(path, then="time.sleep(60)")
    other.stdout.readline()
    locks.update(path, this_process())
    assert other.wait(10) == LOCK_LOST_EXIT_CODE
    assert "is now held by process" in other.stderr.read()
    assert read_holder(path).pid == os.getpid()


def test_removed_lock_file_is_restored(tmp_path):
    path = tmp_path / "a.owner"
    with hold(path):
        path.unlink()
        while not path.exists():
            time.sleep(0.01)
    assert is_released(path)


def test_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.owner"
    assert try_acquire(path, this_process())
    assert not try_acquire(path, this_process())
    assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    "error",
    [FileExistsError(errno.EEXIST, "File exists"), OSError(errno.EIO, "Input/output error")],
    ids=str,
)
def test_lock_is_acquired_although_the_answer_was_lost(tmp_path, monkeypatch, error):
    link = os.link

    def link_without_answer(*arguments):
        link(*arguments)
        raise error

    monkeypatch.setattr(os, "link", link_without_answer)
    holder = this_process()
    assert try_acquire(tmp_path / "a.owner", holder)
    assert read_holder(tmp_path / "a.owner") == holder
    monkeypatch.setattr(os, "link", link)
    assert not try_acquire(tmp_path / "a.owner", this_process())


def test_heartbeat_survives_a_file_server_that_is_away_while_the_file_is_restored(
    tmp_path, monkeypatch
):
    path, acquire, failures = tmp_path / "a.owner", locks.try_acquire, []

    def fail_once(*arguments):
        if not failures:
            failures.append(1)
            raise OSError(errno.ESTALE, "Stale file handle")
        return acquire(*arguments)

    with hold(path):
        monkeypatch.setattr(locks, "try_acquire", fail_once)
        path.unlink()
        wait_until(path.exists, seconds=10)
    assert failures and is_released(path)


def in_other_container(**changes):
    """A lock holder on this machine whose processes are not visible here."""
    boot = this_process().machine.partition(" ")[0]
    return replace(this_process(), machine=f"{boot} pid:[1]", **changes)


def test_a_silent_holder_in_another_container_is_waited_for_only_shortly(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "sees_all_processes", lambda: False)
    monkeypatch.setattr(locks, "SAME_MACHINE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(locks, "TIMEOUT_S", 1000.0)
    path = tmp_path / "a.owner"
    assert try_acquire(path, in_other_container(pid=7))
    os.utime(path, (time.time() - 50, time.time() - 50))
    watch = LockWatch(path)
    assert watch.living_holder() and not watch.confirmed
    assert "process 7 on" in str(watch) and "it may have ended" in str(watch)
    assert re.search(r"heartbeat was 5\d s old, and it counts as dead after 0 s", str(watch))
    time.sleep(0.1)
    os.utime(path)
    assert watch.living_holder() and watch.confirmed and "ended" not in str(watch)
    time.sleep(0.25)
    assert watch.living_holder() is None


def test_a_holder_after_a_reboot_or_elsewhere_is_waited_for_longer(tmp_path):
    path = tmp_path / "a.owner"
    assert try_acquire(path, remote_process())
    watch = LockWatch(path)
    assert watch.living_holder() and watch.timeout_s == locks.TIMEOUT_S


def can_unshare():
    """Whether this user may make pid namespaces."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


def test_processes_of_containers_are_looked_up_by_the_machine():
    if not sees_all_processes() or not can_unshare():
        pytest.skip("takes the machine's own pid namespace, and the right to make others")
    program = (
        "import sys; from cellmap_pipeline.run.locking.locks import this_process as p; h = p()\n"
    )
    program += "print(h.pid, h.machine, h.started, sep=';', flush=True); sys.stdin.read()"
    container = subprocess.Popen(
        [*UNSHARE, sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    pid, machine, started = container.stdout.readline().strip().split(";")
    assert machine != this_process().machine and int(pid) < 10
    holder = replace(this_process(), pid=int(pid), machine=machine, started=int(started))
    assert is_alive(replace(holder, started=None)) is None
    assert is_alive(holder) is True
    assert is_alive(replace(holder, started=holder.started + 1)) is False
    container.communicate()
    assert is_alive(holder) is False
