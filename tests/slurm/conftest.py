"""A Slurm cluster for the tests, and runs that use it."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from cluster import Cluster, missing

from tests.support.runs import Run

# The profile as it is, but for a test's patience.
OPTIONS = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster, taken down when the tests are over, whatever their end."""
    if lacking := missing():
        pytest.skip(
            f"Slurm is not installed ({', '.join(lacking)}); `make test-slurm` does it as root"
        )
    # Sockets in it: pytest's own folders have names that are too long for them.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        made = Cluster(Path(folder))
        before = signal.signal(signal.SIGTERM, _end)
        try:
            made.start()
            with pytest.MonkeyPatch.context() as patch:
                for name, value in made.environment.items():
                    patch.setenv(name, value)
                yield made
        finally:
            made.stop()
            signal.signal(signal.SIGTERM, before)


def _end(*_: object) -> NoReturn:
    """End like Ctrl-C, which takes the cluster down."""
    raise KeyboardInterrupt


@pytest.fixture
def run(cluster: Cluster, new_run: Callable[[], Run]) -> Run:
    """A working directory configured for the tiny training, whose jobs go to the cluster."""
    made = new_run()
    made.profile, made.options = "slurm", OPTIONS
    return made


@pytest.fixture(autouse=True)
def show(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a run that was started has said, for a test that fails."""
    yield
    run = request.node.funcargs.get("run")
    if run and run.said.exists():
        print(run.said.read_text()[-20_000:])
