"""Jobs in processes side by side, as many at a time as their memory allows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

from cellmap_pipeline.orphans import end_with_parent

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
    work : called with a task; where there are several workers, in another process.
    needs : bytes that each task takes.
    memory : bytes for all of them together; by default half of the machine's.
    start, start_arguments : called once in every process.
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
