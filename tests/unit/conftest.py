"""Fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.spoiled import Folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A valid run folder with tiny data, as the working directory."""
    from tests.support.spoiled import make_folder

    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path)
