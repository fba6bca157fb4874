"""Snakemake in processes that have imported it already, since imports take most of its time.

This file is also the program of a server, which forks a process for each run. It is not that of
`multiprocessing`, which all users in a process share: for them it imports modules of the package,
and a run of another checkout would not see that its files differ.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def run_snakemake(
    arguments: Sequence[str], folder: Path, output: Path, timeout_s: float = 1200
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `folder` to its end.

    The file `output` and the result's `stdout` have both output streams.
    """
    output.unlink(missing_ok=True)  # What is left of an earlier run may still write to its file.
    server = _server()
    assert server.stdin and server.stdout
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    request = [list(arguments), str(folder), str(output), environment]
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    if not select.select([server.stdout], [], [], timeout_s)[0]:
        _server.cache_clear()
        server.kill()
        raise AssertionError(f"snakemake did not end within {timeout_s} s")
    answer = server.stdout.readline()
    assert answer, f"the process that starts Snakemake has ended with {server.wait()}"
    exit_code = int(answer)
    return subprocess.CompletedProcess(arguments, exit_code, output.read_text())


@cache
def _server() -> subprocess.Popen[str]:
    """Start the server, which ends with this process."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)


def _serve() -> None:
    # Not the package itself: tensorstore's threads would not survive a fork.
    import pandas  # noqa: F401
    import pydantic  # noqa: F401
    from snakemake.cli import main
    from snakemake.workflow import Workflow  # noqa: F401

    del sys.path[0]  # The folder of this file.
    for line in sys.stdin:
        arguments, folder, output, environment = json.loads(line)
        process = os.fork()
        if process == 0:
            _become(folder, output, environment)
            sys.argv = ["snakemake", *arguments]  # It and our rules look for options there.
            main(arguments)
            return
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(folder: str, output: str, environment: dict[str, str]) -> None:
    """Take the place of a process that was started for a run."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with open(os.devnull) as nothing, open(output, "w") as file:
        for stream, target in ((0, nothing), (1, file), (2, file)):
            os.dup2(target.fileno(), stream)


if __name__ == "__main__":
    _serve()
