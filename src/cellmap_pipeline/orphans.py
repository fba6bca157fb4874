"""Processes of a pool that end when the process that started them was killed."""

from __future__ import annotations

import multiprocessing
import os
import threading


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
