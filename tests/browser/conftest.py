"""Fixtures: a browser, and a finished run to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from chromium import missing_programs, started
from selenium.webdriver import Chrome

from tests.support.runs import Run


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """The browser, which is closed after the tests."""
    if lacking := missing_programs():
        pytest.skip(
            f"Chromium is not installed ({', '.join(lacking)}); `make test-browser` does it as root"
        )
    with started(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Chrome) -> Chrome:
    """The browser with an empty console."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    return chromium


@pytest.fixture(scope="session")
def finished(finished_run: Callable[[], Run]) -> Run:
    """A finished run of the small demo."""
    return finished_run()
