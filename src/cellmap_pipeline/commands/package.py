"""`cellmap-pipeline package`: a submission.zip from labels of any origin."""

from __future__ import annotations

import argparse
from pathlib import Path

from cellmap_pipeline.commands.arguments import add_manifest, add_scoring, must_exist, read_rows
from cellmap_pipeline.commands.check import check_zip


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "package",
        help="make submission.zip of labels or probabilities that another tool made, and check it",
        description="Make submission.zip of a folder of {dataset}/crop{id}/{label}, made by any "
        "tool, and check it.",
        epilog="The exit code is 0 without problems, 1 if the submission would be rejected, and 2 "
        "if it would be accepted but lose score.",
    )
    command.add_argument("folder", type=Path, help="labels or probabilities, zarr 2")
    add_manifest(command)
    command.add_argument(
        "--output", type=Path, default=Path("submission.zip"), help="default: %(default)s"
    )
    add_scoring(command)
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Make the zip, and print each of its problems."""
    from cellmap_pipeline.scoring.rules.registry import rules_named
    from cellmap_pipeline.submission.package import package

    must_exist(options.folder)
    rows = read_rows(options)
    if options.rules:
        rules_named(options.rules)
    package(options.folder, rows, options.output)
    print(f"wrote {options.output}")
    return check_zip(options.output, rows, options)
