"""Tasks that run in parallel within a memory limit."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from multiprocessing.synchronize import SemLock
from pathlib import Path

import psutil
import pytest

from cellmap_pipeline.errors import UnavailableError
from cellmap_pipeline.run.pools import run_bounded, workers
from tests.support.runs import wait_until
from tests.support.spoiled import pattern

ONE_PROCESS = (
    "working in one process instead of 3: this machine allows no others (…), which need a writable "
    "/dev/shm, and a TMPDIR with a short path"
)
folder: list[Path] = []


def start(path: Path) -> None:
    folder[:] = [path]


def work(task: int) -> int:
    (folder[0] / f"{task}-{os.getpid()}").touch()
    mark = folder[0] / f"running-{task}"
    mark.touch()
    beside = len(list(folder[0].glob("running-*")))
    time.sleep(0.1)
    beside = max(beside, len(list(folder[0].glob("running-*"))))
    mark.unlink()
    if task < 0:
        raise ValueError("a task failed")
    return beside


def run(path: Path, tasks: list[int], workers: int, memory: int | None) -> dict[int, int]:
    results = run_bounded(
        work,
        tasks,
        task_bytes=tasks,
        memory_bytes=memory,
        workers=workers,
        initializer=start,
        initargs=(path,),
        description="Test",
    )
    return dict(results)


def test_a_killed_worker_ends_with_a_message() -> None:
    results = run_bounded(
        signal.raise_signal,
        [signal.SIGKILL, signal.SIGKILL],
        task_bytes=[1, 1],
        memory_bytes=None,
        workers=2,
        initializer=os.getpid,
        initargs=(),
        description="Checking",
    )
    with pytest.raises(UnavailableError, match="Checking: a worker process was ended"):
        dict(results)


def test_a_killed_block_worker_ends_with_a_message() -> None:
    with workers(2) as pool, pytest.raises(UnavailableError, match="labels: a worker process was"):
        list(pool.run(signal.raise_signal, [signal.SIGKILL], "labels"))


def test_a_worker_that_was_killed_between_blocks_ends_with_a_message() -> None:
    with workers(2) as pool:
        (first,) = pool.run(_pid, [0], "sizes")
        os.kill(first, signal.SIGKILL)
        with pytest.raises(UnavailableError, match="labels: a worker process was ended"):
            for _ in range(100):
                list(pool.run(_pid, [0], "labels"))
                time.sleep(0.1)


def _pid(block: int) -> int:
    return os.getpid()


def test_large_task_runs_alone_and_small_ones_in_parallel(tmp_path: Path) -> None:
    beside = run(tmp_path, [1, 9, 2, 3], workers=3, memory=6)
    assert beside[9] == 1
    assert max(beside[task] for task in (1, 2, 3)) > 1


def test_single_worker_is_the_calling_process_and_begins_with_the_largest_task(
    tmp_path: Path,
) -> None:
    assert list(run(tmp_path, [1, 9, 2], workers=1, memory=None)) == [9, 2, 1]
    assert {path.name.split("-")[1] for path in tmp_path.iterdir()} == {str(os.getpid())}


def test_no_more_tasks_than_workers_run_at_a_time(tmp_path: Path) -> None:
    assert max(run(tmp_path, [1, 2, 3, 4, 5], workers=2, memory=None).values()) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_failure_of_a_task_is_raised(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ValueError, match="a task failed"):
        run(tmp_path, [1, -1, 2], workers=workers, memory=None)


def test_no_tasks_give_no_results(tmp_path: Path) -> None:
    assert run(tmp_path, [], workers=2, memory=None) == {}


def no_semaphores(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def no_socket() -> None:
    raise OSError("AF_UNIX path too long")


def test_tasks_run_in_one_process_if_dev_shm_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SemLock, "__init__", no_semaphores)
    with caplog.at_level(logging.WARNING):
        assert list(run(tmp_path, [1, 9, 2], workers=3, memory=None)) == [9, 2, 1]
    (message,) = caplog.messages
    assert re.match(pattern(ONE_PROCESS), message) and "Permission denied" in message


@pytest.mark.parametrize(
    ("place", "name", "fail"),
    [(SemLock, "__init__", no_semaphores), (forkserver, "ensure_running", no_socket)],
)
def test_blocks_are_processed_in_one_process_if_no_other_can_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place, name, fail
) -> None:
    monkeypatch.setattr(place, name, fail)
    with caplog.at_level(logging.WARNING), workers(2) as pool:
        assert list(pool.run(lambda task: task * os.getpid(), [1, 2], "blocks")) == [
            os.getpid(), 2 * os.getpid()
        ]  # fmt: skip
    assert len(caplog.messages) == 1 and "writable /dev/shm" in caplog.messages[0]


SCRIPT = """
import time

from cellmap_pipeline.segmentation.blocks import split_into_blocks
from cellmap_pipeline.run.pools import workers
from cellmap_pipeline.run.pools import run_bounded


def work(task):
    print("at work", flush=True)
    time.sleep(0.1)


def begin():
    pass


if __name__ == "__main__":
    if {blocks}:
        with workers(2) as pool:
            list(pool.run(work, split_into_blocks((10_000, 1, 1), 1), "blocks"))
    else:
        tasks = [1] * 10_000
        list(run_bounded(
            work, tasks, task_bytes=tasks, memory_bytes=None, workers=2, initializer=begin,
            initargs=(), description="tasks",
        ))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("blocks", [True, False])
def test_workers_exit_with_their_parent(tmp_path, blocks, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(blocks=blocks))
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen([sys.executable, script], stdout=said, stderr=said)
    wait_until(lambda: "at work" in (tmp_path / "said").read_text(), process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(process.pid, number)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    for child in alive:
        child.kill()
    assert alive == []
