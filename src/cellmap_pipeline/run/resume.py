"""State folders, from which interrupted jobs resume, each bound to one set of settings."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from cellmap_pipeline.io.files import PARTIAL_SUFFIX, reading, write_json

log = logging.getLogger(__name__)


def prepare_state(folder: Path, settings: dict[str, Any], keep: bool = True) -> bool:
    """Prepare `folder` for the state of a job with `settings`.

    Existing state of the same settings is kept. State of other settings is moved to
    `{folder}.old-1`, `-2`, …, or removed unless `keep`.

    Parameters
    ----------
    folder
        The state folder.
    settings
        All that the state depends on, JSON-serializable.
    keep
        Whether state of other settings is worth keeping.

    Returns
    -------
    Whether there is state of the same settings to resume from.

    Raises
    ------
    UnavailableError
        The state cannot be read now.
    """
    fingerprint = fingerprint_of(settings)
    path = folder / "fingerprint.json"
    if _read(path).get("fingerprint") == fingerprint:
        return True
    if folder.exists() and not keep:
        shutil.rmtree(folder)
    elif folder.exists():
        aside = next(
            old
            for i in range(1, 10_000)
            if not (old := folder.with_name(f"{folder.name}.old-{i}")).exists()
        )
        folder.rename(aside)
        log.info("%s belongs to other settings: kept as %s", folder, aside)
    folder.mkdir(parents=True)
    write_json(path, {"fingerprint": fingerprint, "settings": settings})
    return False


def prepare_partial(output: Path, settings: dict[str, Any]) -> Path:
    """Prepare the folder that keeps the finished parts of a job until its output is complete.

    An output that is complete already was written by a job of a dead run, for which this one
    waited: its parts are taken up.

    Parameters
    ----------
    output
        The folder that the job makes.
    settings
        All that its parts depend on, JSON-serializable. Parts of other settings are removed.

    Returns
    -------
    Path of the folder, which is to replace `output` in the end.

    Raises
    ------
    UnavailableError
        The state of the folder cannot be read now.
    """
    partial = output.with_name(output.name + PARTIAL_SUFFIX)
    if output.is_dir() and not partial.exists():
        output.rename(partial)
    prepare_state(partial, settings, keep=False)
    return partial


def _read(path: Path) -> dict[str, Any]:
    try:
        with reading(path):
            values = json.loads(path.read_text())
            return values if isinstance(values, dict) else {}
    except (FileNotFoundError, ValueError):  # A crashed machine can leave it incomplete.
        return {}


def fingerprint_of(settings: Any) -> str:
    """Hash JSON-serializable settings, independently of the order of keys."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
