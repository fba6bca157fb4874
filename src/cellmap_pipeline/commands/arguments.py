"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError


def add_configfile(command: argparse.ArgumentParser) -> None:
    """Add the path of the run's configuration."""
    command.add_argument(
        "--configfile",
        type=Path,
        default=Path("config/config.yaml"),
        help="configuration of the run; default: %(default)s",
    )


def add_manifest(command: argparse.ArgumentParser) -> None:
    """Add the test-crop manifest, which says what a submission must hold."""
    command.add_argument("--manifest", required=True, help="test-crop manifest, path or URL")


def add_scoring(command: argparse.ArgumentParser) -> None:
    """Add the evaluator's rules and the number of processes."""
    command.add_argument(
        "--rules",
        metavar="NAME",
        help="the evaluator's rules, such as 2026-07 (docs/scoring.md lists them); default: "
        "the newest",
    )
    command.add_argument("--workers", type=int, default=os.cpu_count(), help="number of processes")


def read_rows(options: argparse.Namespace) -> list[CropLabel]:
    """Read the labels that the manifest of `--manifest` lists.

    Raises
    ------
    InputError
        If the manifest cannot be read.
    """
    from cellmap_pipeline.data.manifest import local_manifest, read_manifest

    key = "--manifest"
    # A URL is read anew by each call.
    with TemporaryDirectory() as folder:
        return read_manifest(local_manifest(options.manifest, Path(folder), key), key)


def must_exist(*paths: Path | None) -> None:
    """Refuse a path that does not exist, before anything is computed.

    Raises
    ------
    InputError
        If one of the paths does not exist.
    """
    for path in paths:
        if path and not path.exists():
            raise InputError(f"{path} does not exist (looked in {Path.cwd()}): correct the path")
