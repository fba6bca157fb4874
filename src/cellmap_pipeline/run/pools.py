"""Jobs in processes side by side, as many at a time as their memory allows."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

from cellmap_pipeline.io.arrays import set_cache_bytes

T = TypeVar("T")
R = TypeVar("R")


def run_bounded(
    work: Callable[[T], R],
    tasks: Sequence[T],
    needs: Sequence[int],
    workers: int,
    memory: int | None,
    start: Callable[..., None],
    start_arguments: tuple[Any, ...],
    description: str,
) -> Iterator[tuple[T, R]]:
    """Each task with its result, as they are done; under a progress bar.

    The largest tasks that fit beside those that run are started first. A task that needs more than
    `memory` runs alone.

    Parameters
    ----------
    work
        Called with a task; where there are several workers, in another process.
    needs
        Bytes that each task takes.
    memory
        Bytes for all of them together; by default half of the machine's.
    start, start_arguments
        Called once in every process.
    """
    if memory is None:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    order = sorted(range(len(tasks)), key=lambda i: -needs[i])
    # disable=None: no bar where nobody looks at a terminal.
    with tqdm(total=len(tasks), desc=description, unit="label", disable=None) as bar:
        if workers == 1:
            start(*start_arguments)
            for i in order:
                yield tasks[i], work(tasks[i])
                bar.update()
            return
        begin = partial(_begin, start, start_arguments)
        with ProcessPoolExecutor(workers, initializer=begin) as pool:
            running: dict[Future[R], int] = {}
            try:
                while order or running:
                    used = sum(needs[i] for i in running.values())
                    for i in list(order):
                        fits = used + needs[i] <= memory or not running
                        if fits and len(running) < workers:
                            order.remove(i)
                            running[pool.submit(work, tasks[i])] = i
                            used += needs[i]
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        i = running.pop(done)
                        yield tasks[i], done.result()
                        bar.update()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _begin(start: Callable[..., None], start_arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    start(*start_arguments)


def end_with_parent() -> None:
    """End this process as soon as the one that started it has, however that ended.

    A pool whose process is killed can tell its workers nothing: they would wait for work, and keep
    their memory, for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# Decoded chunks that a worker keeps: what windows side by side share. More would take the memory
# of several workers, for voxels that are not read again soon.
WORKER_CACHE_BYTES = 1 << 27


class Workers:
    """Where blocks are worked on: in this process, or in several of their own."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    def run(self, work: Callable[[T], R], blocks: Sequence[T], what: str) -> Iterator[R]:
        """Results of `work` for each block, in order, with a progress bar."""
        run = self._pool.map if self._pool else map
        bar = tqdm(run(work, blocks), desc=what, total=len(blocks), unit="block")
        yield from bar


@contextmanager
def workers(number: int) -> Iterator[Workers]:
    """`number` processes; 1 is this one."""
    if number == 1:
        yield Workers(None)
        return
    # Not by a fork of this process: its threads (of tensorstore, say) would be missing there.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(number, mp_context=context, initializer=_begin_worker) as pool:
        yield Workers(pool)


def _begin_worker() -> None:
    """What each process of its own does first."""
    end_with_parent()
    set_cache_bytes(WORKER_CACHE_BYTES)
