"""The command line, for everything that also works without Snakemake."""

from __future__ import annotations

import argparse
import errno
import functools
import sys
from collections.abc import Sequence
from typing import NoReturn

from cellmap_pipeline.commands import (
    check,
    demo_data,
    export,
    import_volume,
    leaderboard,
    measure,
    package,
    run,
    score,
    status,
    view,
)
from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.run.terminal import replace_unprintable

# In the order in which a newcomer meets them, which is the order of `--help`.
COMMANDS = (
    demo_data,
    import_volume,
    run,
    status,
    view,
    measure,
    leaderboard,
    export,
    package,
    check,
    score,
)

FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

DESCRIPTION = (
    "Turn FIB-SEM volumes and annotated crops into a submission to the CellMap Segmentation "
    "Challenge. `run` makes everything that config/config.yaml asks for; the other commands each "
    "do one thing, and most need no run. `COMMAND --help` lists the arguments of a command."
)
EPILOG = "Every command exits with 0 on success and with 1 on bad input."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 on success.

    `run` is replaced by `snakemake` with the arguments that follow, and exits as that does. `check`
    and `package` exit with 1 if the submission would be rejected, and with 2 if it would be
    accepted but lose score; `score --official` exits with 2 unless the official toolbox agrees.
    Every command exits with 1 on bad input.
    """
    replace_unprintable()
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if options.execute is run.execute:
        options.arguments = list(sys.argv[1:] if arguments is None else arguments)[1:]
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return options.execute(options)
    except (InputError, UnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in FULL_ERRNOS:
            raise
        # Snakemake needs a few bytes in the folder of a run, too.
        file = error.filename or "a file"
        print(
            f"error: {file} cannot be written ({error.strerror}): free space, and run the same "
            "command again",
            file=sys.stderr,
        )
        return 1


class _Parser(argparse.ArgumentParser):
    """A parser that exits with 1 on wrong arguments, as commands do on all bad input."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cellmap-pipeline",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=18),
    )
    commands = parser.add_subparsers(required=True, title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
