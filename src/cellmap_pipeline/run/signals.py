"""Signals of Slurm for the scripts of a job.

Slurm warns a job before its time limit, and sends SIGTERM on `scancel`. If it tracks processes by
cgroups, as is usual, it signals only the first process of a job step, except by SIGKILL. That is
Snakemake, which then waits for its scripts, but does not signal them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import psutil

FORWARDED = (signal.SIGTERM, signal.SIGUSR1)
# They run a script and would end before it.
SHELLS = ("bash", "sh")


def forward_to_scripts() -> None:
    """Send each of the `FORWARDED` signals that this process gets to its scripts, too.

    Its own handlers run as well, also those that are installed later. Called by the main thread,
    once Snakemake runs in a job step; scripts may receive a signal twice, from Slurm and from here.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python writes the numbers of all signals with a handler to it. Snakemake will install one for
    # SIGTERM, but would be ended by SIGUSR1.
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGUSR1, lambda number, frame: None)

    def forward() -> None:
        while True:
            number = os.read(reader, 1)[0]
            if number in FORWARDED:
                _signal_scripts(signal.Signals(number))

    threading.Thread(target=forward, name="signals", daemon=True).start()


def _signal_scripts(number: signal.Signals) -> None:
    for script in _find_scripts(psutil.Process()):
        with suppress(psutil.NoSuchProcess):  # It has ended meanwhile.
            script.send_signal(number)
            print(f"{number.name} is forwarded to process {script.pid}", file=sys.stderr)


def _find_scripts(process: psutil.Process) -> Iterator[psutil.Process]:
    """Yield the child processes of a process, but of a child that is a shell, its children.

    Scripts stop their own child processes. To one that still writes its results, the end of a
    worker would be an error, and the end of `srun` would end the processes of other nodes.
    """
    for child in process.children():
        with suppress(psutil.NoSuchProcess):  # It has ended meanwhile.
            if child.name() in SHELLS:
                yield from _find_scripts(child)
            else:
                yield child
