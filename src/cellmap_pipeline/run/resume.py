"""Folders that outlive a killed job: what is in them belongs to one set of settings."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def claim(folder: Path, settings: dict[str, Any], keep: bool = True) -> bool:
    """Make `folder` the state of a job with `settings`.

    What lies there is kept if it belongs to the same settings. If not it is moved aside, to
    `{folder}.old-1`, `-2`, …, never deleted and never mixed; or removed, unless `keep`.

    Returns
    -------
    Whether there is state of the same settings to go on from.
    """
    fingerprint = fingerprint_of(settings)
    mark = folder / "fingerprint.json"
    if _read(mark).get("fingerprint") == fingerprint:
        return True
    if folder.exists() and not keep:
        shutil.rmtree(folder)
    elif folder.exists():
        aside = next(
            path
            for i in range(1, 10_000)
            if not (path := folder.with_name(f"{folder.name}.old-{i}")).exists()
        )
        folder.rename(aside)
        log.info("%s belongs to other settings: kept as %s", folder, aside)
    folder.mkdir(parents=True)
    beside = mark.with_suffix(".partial")
    beside.write_text(json.dumps({"fingerprint": fingerprint, "settings": settings}, indent=1))
    os.replace(beside, mark)
    return False


def _read(mark: Path) -> dict[str, Any]:
    try:
        return json.loads(mark.read_text())
    except (FileNotFoundError, ValueError):  # Cut short when the machine died.
        return {}


def fingerprint_of(settings: dict[str, Any]) -> str:
    """A hash of plain builtins that does not depend on the order of keys."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
