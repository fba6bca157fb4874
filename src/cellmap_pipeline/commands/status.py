"""`cellmap-pipeline status`: the progress of a run."""

from __future__ import annotations

import argparse

from cellmap_pipeline.commands.arguments import add_configfile


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "status",
        help="show how far a run is: trainings, predictions, labels, and the time left",
        description="Show how far a run is: each training with its steps and scores, predictions "
        "and labels made so far, failed jobs, and the time left. It only reads, and may be used "
        "while the run goes on.",
    )
    add_configfile(command)
    command.add_argument("--watch", action="store_true", help="update until the run ends")
    command.add_argument(
        "--every",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="interval of updates; default: %(default)g",
    )
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the state of the run once, or until it ends."""
    from rich.console import Console

    from cellmap_pipeline.plan.make import read_plan
    from cellmap_pipeline.report.status import read_status
    from cellmap_pipeline.report.status_table import render_status, watch_status

    plan = read_plan(options.configfile)
    if options.watch:
        watch_status(plan, options.every)
    else:
        Console().print(render_status(read_status(plan)))
    return 0
