"""Pools of worker processes, with a limit on memory, and without orphans."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from tqdm import tqdm

from cellmap_pipeline.errors import UnavailableError
from cellmap_pipeline.io.arrays import set_cache_bytes

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def run_bounded(
    work: Callable[[T], R],
    tasks: Sequence[T],
    *,
    task_bytes: Sequence[int],
    memory_bytes: int | None,
    workers: int,
    initializer: Callable[..., None],
    initargs: tuple[Any, ...],
    description: str,
) -> Iterator[tuple[T, R]]:
    """Run tasks in parallel within a memory limit; yield each with its result when it is done.

    The largest tasks that fit next to the running ones are started first. A task that needs more
    than `memory_bytes` runs alone.

    Parameters
    ----------
    work
        Called with a task; with several workers, in another process.
    task_bytes
        Memory that each task takes.
    memory_bytes
        Memory for all running tasks together; by default half of the machine's.
    workers
        Number of processes; 1 runs all tasks in this process, as happens with a warning where
        the machine allows no others.
    initializer, initargs
        Called once in every process before its first task.
    description
        Title of the progress bar.

    Raises
    ------
    UnavailableError
        A process was killed.
    """
    if memory_bytes is None:
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    order = sorted(range(len(tasks)), key=lambda i: -task_bytes[i])
    # disable=None shows no bar unless stderr is a terminal.
    with tqdm(total=len(tasks), desc=description, unit="label", disable=None) as bar:
        initialize = partial(_initialize_worker, initializer, initargs)
        context = multiprocessing.get_context()
        pool = _start_pool(workers, context, initialize) if workers > 1 else None
        if pool is None:
            initializer(*initargs)
            for i in order:
                yield tasks[i], work(tasks[i])
                bar.update()
            return
        with pool:
            running: dict[Future[R], int] = {}
            try:
                while order or running:
                    used = sum(task_bytes[i] for i in running.values())
                    for i in list(order):
                        fits = used + task_bytes[i] <= memory_bytes or not running
                        if fits and len(running) < workers:
                            order.remove(i)
                            running[pool.submit(work, tasks[i])] = i
                            used += task_bytes[i]
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        i = running.pop(done)
                        yield tasks[i], done.result()
                        bar.update()
            except BrokenProcessPool:
                raise _ended(description) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _ended(description: str) -> UnavailableError:
    return UnavailableError(
        f"{description}: a worker process was ended, as when memory is short: start again with "
        "fewer processes, or with more memory"
    )


def _start_pool(
    number: int, context: BaseContext, initializer: Callable[[], None]
) -> ProcessPoolExecutor | None:
    """Start a pool of processes; None, after a warning, if the machine allows no others."""
    try:
        if context.get_start_method() == "forkserver":
            forkserver.ensure_running()
        return ProcessPoolExecutor(number, mp_context=context, initializer=initializer)
    except (OSError, NotImplementedError) as error:
        log.warning(
            "working in one process instead of %d: this machine allows no others (%s), which need "
            "a writable /dev/shm, and a TMPDIR with a short path", number, error,
        )  # fmt: skip
        return None


def _initialize_worker(initializer: Callable[..., None], initargs: tuple[Any, ...]) -> None:
    exit_with_parent()
    initializer(*initargs)


def exit_with_parent() -> None:
    """Exit this process as soon as its parent process has ended, even if that was killed.

    Otherwise the workers of a killed process would wait for tasks, and keep their memory, forever.
    """
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# Enough for the chunks that neighboring windows share. A larger cache would hold voxels that are
# not read again soon, once per worker.
WORKER_CACHE_BYTES = 1 << 27


class Workers:
    """Processes that work on blocks: this process, or those of a pool."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    def run(self, work: Callable[[T], R], blocks: Sequence[T], description: str) -> Iterator[R]:
        """Yield the results of `work` for each block, in order, with a progress bar.

        Raises
        ------
        UnavailableError
            A process was killed.
        """
        run = self._pool.map if self._pool else map
        try:
            yield from tqdm(run(work, blocks), desc=description, total=len(blocks), unit="block")
        except BrokenProcessPool:
            raise _ended(description) from None


@contextmanager
def workers(number: int) -> Iterator[Workers]:
    """Start `number` worker processes; 1 means to work in this process.

    Where the machine allows no other processes, this one works alone, after a warning.
    """
    # A fork of this process would lack its threads, such as those of tensorstore.
    context = multiprocessing.get_context("forkserver")
    pool = _start_pool(number, context, _initialize_block_worker) if number > 1 else None
    with pool or nullcontext():
        yield Workers(pool)


def _initialize_block_worker() -> None:
    exit_with_parent()
    set_cache_bytes(WORKER_CACHE_BYTES)
