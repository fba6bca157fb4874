"""Fixtures: a Slurm cluster, and runs that use it."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from cluster import Cluster, missing_programs

from tests.support.runs import Run

# Shorter waits than in the profile.
OPTIONS = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster that is stopped after the tests, however they end."""
    if lacking := missing_programs():
        pytest.skip(
            f"Slurm is not installed ({', '.join(lacking)}); `make test-slurm` does it as root"
        )
    # Paths of sockets must be short; those in pytest's folders are too long.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        made = Cluster(Path(folder))
        before = signal.signal(signal.SIGTERM, _raise_interrupt)
        try:
            made.start()
            with pytest.MonkeyPatch.context() as patch:
                for name, value in made.environment.items():
                    patch.setenv(name, value)
                yield made
        finally:
            made.stop()
            signal.signal(signal.SIGTERM, before)


def _raise_interrupt(*_: object) -> NoReturn:
    """Handle SIGTERM like Ctrl-C, so that the cluster is stopped."""
    raise KeyboardInterrupt


@pytest.fixture
def run(cluster: Cluster, new_run: Callable[[], Run]) -> Run:
    """A working directory configured for the tiny training, with jobs on the cluster."""
    made = new_run()
    made.profile, made.options = "slurm", OPTIONS
    return made


@pytest.fixture(autouse=True)
def show_output(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the output of a test's run, which pytest shows if the test fails."""
    yield
    run = request.node.funcargs.get("run")
    if run and run.output.exists():
        print(run.output.read_text()[-20_000:])
