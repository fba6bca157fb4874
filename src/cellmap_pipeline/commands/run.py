"""`cellmap-pipeline run`: Snakemake, after cleaning up what a dead run left."""

from __future__ import annotations

import argparse


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command; its arguments, `--help` included, are Snakemake's."""
    command = commands.add_parser(
        "run",
        help="run the workflow: snakemake with the arguments that follow, also after a run was "
        "killed",
        add_help=False,
    )
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Replace this process by `snakemake`, once no other run is in the way."""
    from cellmap_pipeline.run.restart import start

    start(options.arguments)
    return 0
