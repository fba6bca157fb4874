"""A folder that exists where demo data are generated."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cellmap_pipeline.errors import InputError

MARKER = "demo.json"
MAX_LISTED_PATHS = 3


def read_marker(root: Path) -> dict[str, Any] | None:
    """Read seed, size and version of the demo in `root`; None if it is not a demo."""
    try:
        marker = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and {*marker} == {"seed", "size", "version"} else None


def check_replaceable(root: Path, files: Iterable[str], crops: Iterable[str]) -> None:
    """Check that a folder that exists holds nothing but a demo.

    Parameters
    ----------
    root
        The folder.
    files
        Names that a demo has in the folder, in addition to `demo.json`.
    crops
        Names of its labeled crops.

    Raises
    ------
    InputError
        The folder contains something other than a demo, which would be lost.
    """
    if not root.exists():
        return
    is_folder = root.is_dir()
    if read_marker(root) is None and (not is_folder or any(root.iterdir())):
        raise InputError(
            f"{root} exists and is not demo data: choose another folder for the demo, or move it"
        )
    own = {MARKER, *files}
    others = [path for path in root.iterdir() if path.name not in own]
    own = {".zgroup", ".zattrs", *crops}
    labeled = root.glob("*/*.zarr/recon-1/labels/groundtruth/*")
    others += [path for path in labeled if path.name not in own]
    if others:
        shown = sorted(others)[:MAX_LISTED_PATHS]
        listed = ", ".join(str(path.relative_to(root)) for path in shown)
        raise InputError(
            f"{root} is a demo with other settings, but also holds {listed}, which would be lost: "
            "move it, or choose another folder for the demo"
        )
