"""`cellmap-pipeline leaderboard`: all trainings of a results folder, by their scores."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "leaderboard",
        help="compare all trainings in a results folder by their validation scores",
        description="List all trainings in a results folder with their validation scores per "
        "class, the best first.",
    )
    command.add_argument("folder", type=Path, help="the run's `output`, such as results")
    command.add_argument("--output", type=Path, help="also write it as CSV")
    command.add_argument(
        "--rules", metavar="NAME", help="list scores by these rules; default: the only ones found"
    )
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the table."""
    from cellmap_pipeline.plan.paths import ResultPaths
    from cellmap_pipeline.scoring.leaderboard import leaderboard, write_leaderboard

    table = leaderboard(*ResultPaths(options.folder).existing_scores(), options.rules)
    print(table.to_string(index=False, na_rep="", float_format="{:.3f}".format))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_leaderboard(table, options.output)
    return 0
