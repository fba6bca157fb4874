"""CPU-seconds that a command takes with all of its processes, also those that were killed.

    python benchmarks/cpu_seconds.py make demo

A busy machine stretches wall time several times, CPU time little. `time` misses processes whose
parent died before them; here they become children of this program, which waits for all of them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h


def main() -> int:
    """Run the command, print one line of JSON to standard error, and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="and its arguments")
    command = parser.parse_args().command
    if not command:
        parser.error("a command is needed")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    begin = time.monotonic()
    process = subprocess.Popen(command)
    status = 0
    while True:
        try:
            pid, ended = os.wait()
        except ChildProcessError:
            break
        if pid == process.pid:
            status = os.waitstatus_to_exitcode(ended)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "command": command,
        "exit_status": status,
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "wall_seconds": round(time.monotonic() - begin, 1),
        "processors": len(os.sched_getaffinity(0)),
    }
    print(json.dumps(figures), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
