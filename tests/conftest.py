"""What all tests share."""

import os
import signal
from pathlib import Path

import pytest

# Before NumPy or torch is imported: test arrays are small, and xdist's workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that starts the tests in the background makes them, and what they start, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.support.runs"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first: in `make test-demo`, all others fit beside it."""
    items.sort(key=lambda item: item.path.name != "test_whole_demo.py")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The folder with the Snakefile, the Makefile and ``src``."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared(repo_root: Path) -> Path:
    """Real data and reference scores, in a folder beside the repository; not part of it."""
    folder = repo_root.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder
