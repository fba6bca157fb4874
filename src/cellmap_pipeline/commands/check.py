"""`cellmap-pipeline check`: whether a submission.zip would be accepted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cellmap_pipeline.commands.arguments import add_manifest, add_scoring, must_exist, read_rows
from cellmap_pipeline.errors import InputError, printable


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "check",
        help="check whether a submission.zip would be accepted, and what would cost score",
        description="Check a submission.zip, made by any tool, against the test-crop manifest: "
        "what would be refused, and what would cost score.",
        epilog="The exit code is 0 without problems, 1 if the submission would be rejected, and 2 "
        "if it would be accepted but lose score.",
    )
    command.add_argument("zip", type=Path, help="the submission")
    add_manifest(command)
    command.add_argument("--truth", type=Path, help="ground truth, to also compare object counts")
    command.add_argument(
        "--official", action="store_true", help="also read it with the official toolbox"
    )
    add_scoring(command)
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print each problem of the submission."""
    must_exist(options.zip, options.truth)
    return check_zip(
        options.zip, read_rows(options), options, truth=options.truth, official=options.official
    )


def check_zip(
    zip_path: Path,
    rows: list,
    options: argparse.Namespace,
    truth: Path | None = None,
    official: bool = False,
) -> int:
    """Print each problem of a submission, and return the exit code."""
    from cellmap_pipeline.scoring.rules.registry import NEWEST_RULES
    from cellmap_pipeline.submission.check import check, exit_code
    from cellmap_pipeline.submission.official_reader import check_officially

    problems = check(zip_path, rows, truth, options.workers, options.rules or NEWEST_RULES)
    if official:
        try:
            found = check_officially(zip_path, rows)
        except InputError as error:
            print(f"note: {error}", file=sys.stderr)
        else:
            problems += found
            if not found:
                print(f"{zip_path}: the official reader accepts all of it")
    for problem in problems:
        print(printable(str(problem)))
    if not problems:
        print(f"{zip_path}: no problems found")
    return exit_code(problems)
