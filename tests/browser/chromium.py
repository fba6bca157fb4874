"""Debian's Chromium without a screen, as the tests use it."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

PROGRAMS = ("chromium", "chromedriver")
# WebGL is drawn by the processor; nothing is sent or fetched by the browser itself.
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1500,900",
)  # fmt: skip
# What zarr has no file for (chunks of fill values alone, a group's `.zarray`), and what the page
# wanted to change while its server did, too: the server's word counts, and the page takes it over.
EXPECTED = re.compile(
    r"(/\.zarray|/favicon\.ico|/s\d+/\d+[./]\d+[./]\d+) - .* 404 |/state/\w+ - .* 412 "
)


def missing() -> list[str]:
    """Programs that the tests take and that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def started(profile: Path) -> Iterator[Chrome]:
    """A browser with a new profile in the empty folder `profile`."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def errors(browser: Chrome) -> list[str]:
    """Errors in the console since it was asked last, but for files that need not be there."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and not EXPECTED.search(entry["message"])
    ]


def pixels(png: bytes) -> NDArray[np.uint8]:
    """A picture as (y, x, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def is_blank(png: bytes) -> bool:
    """Whether a picture shows next to nothing: hardly any pixel differs from the commonest."""
    colours, counts = np.unique(pixels(png).reshape(-1, 3), axis=0, return_counts=True)
    return len(colours) < 8 or counts.max() > 0.99 * counts.sum()
