"""Snakemake in processes that have imported it already, since imports take most of its time."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Not the package itself: tensorstore's threads would not survive a fork.
PRELOADED = ["snakemake.cli", "snakemake.workflow", "snakemake.dag", "pandas", "pydantic"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def run_snakemake(
    arguments: Sequence[str], folder: Path, output: Path, timeout_s: float = 1200
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `folder` to its end.

    The file `output` and the result's `stdout` have both output streams.
    """
    output.unlink(missing_ok=True)  # What is left of an earlier run may still write to its file.
    task = (list(arguments), folder, output, dict(os.environ))
    process = CONTEXT.Process(target=_run, args=task)
    process.start()
    process.join(timeout_s)
    assert process.exitcode is not None, f"snakemake did not end within {timeout_s} s"
    return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text())


def _run(arguments: list[str], folder: Path, output: Path, environment: dict[str, str]) -> None:
    from snakemake.cli import main

    os.environ.clear()
    os.environ.update(environment, OMP_NUM_THREADS="2")
    os.chdir(folder)
    sys.argv = ["snakemake", *arguments]  # It and our rules look for options there.
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    main(arguments)
