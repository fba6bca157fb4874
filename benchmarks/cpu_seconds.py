"""CPU seconds of a command with all of its processes, including those that were killed.

    python benchmarks/cpu_seconds.py make demo

On a busy machine, wall time increases several times, CPU time only slightly. `time` misses
processes whose parent died before them; here, they become children of this program, which waits for
all of them.
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

PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h


def main() -> int:
    """Run the command, print one line of JSON to standard error, and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command and its arguments")
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
