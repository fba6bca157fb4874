"""A folder that exists where demo data are generated."""

from __future__ import annotations

import json
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


def check_replaceable(
    root: Path, *, files: set[str], datasets: set[str], crops: set[str], labels: set[str]
) -> None:
    """Check that a folder that exists holds nothing but a demo.

    Hidden files, such as metadata of zarr, are not compared.

    Parameters
    ----------
    root
        The folder.
    files, datasets, crops, labels
        Names that a demo has there: next to the datasets, of datasets, and of their crops and
        labels.

    Raises
    ------
    InputError
        The folder contains something other than a demo, which would be lost.
    """
    if not root.exists():
        return
    if read_marker(root) is None and (not root.is_dir() or any(root.iterdir())):
        raise InputError(
            f"{root} exists and is not demo data: choose another folder for the demo, or move it"
        )
    recon = "*/*.zarr/recon-1"
    # By glob pattern of their paths; the ground truth of test crops lies next to the datasets.
    names = {
        "*": {MARKER, *files, *datasets},
        "*/*": {f"{name}.zarr" for name in datasets} | crops,
        "*/*.zarr/*": {"recon-1"},
        f"{recon}/*": {"em", "labels"},
        f"{recon}/em/*": {"fibsem-uint8"},
        f"{recon}/labels/*": {"groundtruth"},
        f"{recon}/labels/groundtruth/*": crops,
        f"{recon}/labels/groundtruth/*/*": labels,
    }
    others = [
        str(path.relative_to(root))
        for pattern, own in names.items()
        for path in root.glob(pattern)
        if path.name not in own and not path.name.startswith(".")
    ]
    if others:
        raise InputError(
            f"{root} is a demo with other settings, but also holds "
            f"{', '.join(sorted(others)[:MAX_LISTED_PATHS])}, which would be lost: move it, or "
            "choose another folder for the demo"
        )
