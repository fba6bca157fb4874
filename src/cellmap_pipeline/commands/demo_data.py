"""`cellmap-pipeline demo-data`: synthetic volumes and crops to try the workflow on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "demo-data",
        help="make synthetic FIB-SEM volumes with crops and ground truth, to try the workflow",
        description="Make synthetic FIB-SEM volumes with annotated crops, test crops and their "
        "ground truth, in the layout of the challenge.",
    )
    command.add_argument("folder", type=Path, help="folder to create")
    command.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    command.add_argument(
        "--size", choices=["full", "small"], default="full", help="default: %(default)s"
    )
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Make the data."""
    from cellmap_pipeline.demo.make import make_demo

    make_demo(options.folder, seed=options.seed, size=options.size)
    return 0
