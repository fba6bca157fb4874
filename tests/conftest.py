"""Fixtures and settings of all tests."""

import os
import signal
from pathlib import Path

import pytest

# Before NumPy or torch is imported: test arrays are small, and xdist's workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that starts the tests in the background lets them and their children ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.support.runs"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest file first: in `make test-demo`, all others run in parallel to it."""
    items.sort(key=lambda item: item.path.name != "test_whole_demo.py")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The repository's root: the folder with the Snakefile, the Makefile and ``src``."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared(repo_root: Path) -> Path:
    """The folder with real data and reference scores, next to the repository."""
    folder = repo_root.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder
