"""Debian's Chromium in headless mode."""

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
# WebGL is rendered on the CPU; background requests of the browser are disabled.
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1500,900",
)  # fmt: skip
# Files that zarr 2 does not write (chunks with only fill values, a group's `.zarray`, `zarr.json`),
# and state updates that collide with one of the server, which wins (status 412).
EXPECTED = re.compile(
    r"(/\.zarray|/zarr\.json|/favicon\.ico|/s\d+/\d+[./]\d+[./]\d+) - .* 404 |/state/\w+ - .* 412 "
)


def missing_programs() -> list[str]:
    """Return the programs that the tests need and that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def started(profile: Path) -> Iterator[Chrome]:
    """Start a browser with a new profile in the empty folder `profile`."""
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
    """Return new errors in the console, without those about optional files."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and not EXPECTED.search(entry["message"])
    ]


def pixels(png: bytes) -> NDArray[np.uint8]:
    """Decode a PNG into an array of shape (y, x, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def is_blank(png: bytes) -> bool:
    """Return whether almost all pixels of a PNG have the same color."""
    colors, counts = np.unique(pixels(png).reshape(-1, 3), axis=0, return_counts=True)
    return len(colors) < 8 or counts.max() > 0.99 * counts.sum()
