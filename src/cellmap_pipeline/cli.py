"""The command line, for everything that also works without Snakemake."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cellmap_pipeline.errors import InputError, UnavailableError, printable
from cellmap_pipeline.run.terminal import replace_unprintable

MAX_PORT = 65535
FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

MANIFEST_HELP = "test-crop manifest, path or URL"


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
    if options.execute is _run:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cellmap-pipeline", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    # Without a help of its own: its arguments, --help included, are Snakemake's.
    run = commands.add_parser(
        "run", help="run snakemake, after cleaning up what a dead run left", add_help=False
    )
    run.set_defaults(execute=_run)

    view = commands.add_parser("view", help="view a crop in the browser")
    view.add_argument("crop", type=int, help="number of the crop")
    view.add_argument("--configfile", type=Path, default=Path("config/config.yaml"))
    view.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="default: all")
    view.add_argument("--port", type=_port, default=0, help="default: a free port")
    view.add_argument(
        "--address", default="127.0.0.1", help="address to listen at; default: %(default)s"
    )
    view.add_argument("--no-browser", action="store_true", help="only print the link")
    view.set_defaults(execute=_view)

    status = commands.add_parser("status", help="show the progress of a run and the time left")
    status.add_argument("--configfile", type=Path, default=Path("config/config.yaml"))
    status.add_argument("--watch", action="store_true", help="update until the run ends")
    status.add_argument(
        "--every",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="interval of updates; default: %(default)g",
    )
    status.set_defaults(execute=_status)

    demo = commands.add_parser("demo-data", help="generate the demo data")
    demo.add_argument("folder", type=Path)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--size", choices=["full", "small"], default="full")
    demo.set_defaults(execute=_demo_data)

    package = commands.add_parser(
        "package", help="create submission.zip from a folder of {dataset}/crop{id}/{label}"
    )
    package.add_argument("folder", type=Path, help="labels or probabilities, zarr 2")
    package.add_argument("--manifest", required=True, help=MANIFEST_HELP)
    package.add_argument("--output", type=Path, default=Path("submission.zip"))
    package.set_defaults(execute=_package, truth=None, official=False)

    check = commands.add_parser("check", help="check a submission.zip against the manifest")
    check.add_argument("zip", type=Path)
    check.add_argument("--manifest", required=True, help=MANIFEST_HELP)
    check.add_argument("--truth", type=Path, help="ground truth, to also compare object counts")
    check.add_argument(
        "--official", action="store_true", help="also read it with the official toolbox"
    )
    check.set_defaults(execute=_check)

    score = commands.add_parser("score", help="compute the official scores of a submission.zip")
    score.add_argument("zip", type=Path)
    score.add_argument(
        "--truth", type=Path, required=True, help="ground truth: zarr with crop{id}/{label}"
    )
    score.add_argument("--manifest", required=True, help=MANIFEST_HELP)
    score.add_argument(
        "--output", type=Path, default=Path("scores.json"), help="a .csv is written next to it"
    )
    score.add_argument("--memory-gb", type=float, help="default: half of the machine's memory")
    score.add_argument(
        "--without-collisions",
        action="store_true",
        help="also report scores without the effect of colliding ids in the evaluator",
    )
    score.add_argument(
        "--official",
        action="store_true",
        help="also score it with the official toolbox, and report which rules agree with it",
    )
    score.set_defaults(execute=_score)

    for command in (package, check, score):
        command.add_argument(
            "--rules",
            metavar="NAME",
            help="the evaluator's rules, such as 2026-07 (docs/scoring.md lists them); default: "
            "the newest",
        )
        command.add_argument(
            "--workers", type=int, default=os.cpu_count(), help="number of processes"
        )

    board = commands.add_parser("leaderboard", help="compare all trainings in a results folder")
    board.add_argument("folder", type=Path)
    board.add_argument("--output", type=Path, help="also write it as CSV")
    board.add_argument(
        "--rules", metavar="NAME", help="list scores by these rules; default: the only ones found"
    )
    board.set_defaults(execute=_leaderboard)
    return parser


def _port(text: str) -> int:
    """Parse the number of a port, 0 for any free one."""
    port = int(text)
    if not 0 <= port <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to {MAX_PORT}, not {text}")
    return port


def _run(options: argparse.Namespace) -> int:
    from cellmap_pipeline.run.restart import start

    start(options.arguments)
    return 0


def _view(options: argparse.Namespace) -> int:
    from cellmap_pipeline.config.load import read_run
    from cellmap_pipeline.report.crop_layers import find_layers
    from cellmap_pipeline.report.viewer import view

    crop = find_layers(read_run(options.configfile), options.crop, options.classes)
    view(crop, options.address, options.port, not options.no_browser)
    return 0


def _status(options: argparse.Namespace) -> int:
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


def _demo_data(options: argparse.Namespace) -> int:
    from cellmap_pipeline.demo.make import make_demo

    make_demo(options.folder, seed=options.seed, size=options.size)
    return 0


def _package(options: argparse.Namespace) -> int:
    from cellmap_pipeline.scoring.rules.registry import rules_named
    from cellmap_pipeline.submission.package import package

    _must_exist(options.folder)
    rows = _manifest(options)
    if options.rules:
        rules_named(options.rules)
    package(options.folder, rows, options.output)
    print(f"wrote {options.output}")
    options.zip = options.output
    return _check(options)


def _check(options: argparse.Namespace) -> int:
    from cellmap_pipeline.scoring.rules.registry import NEWEST_RULES
    from cellmap_pipeline.submission.check import check, exit_code
    from cellmap_pipeline.submission.official_reader import check_officially

    _must_exist(options.zip, options.truth)
    rows = _manifest(options)
    rules = options.rules or NEWEST_RULES
    problems = check(options.zip, rows, options.truth, options.workers, rules)
    if options.official:
        try:
            found = check_officially(options.zip, rows)
        except InputError as error:
            print(f"note: {error}", file=sys.stderr)
        else:
            problems += found
            if not found:
                print(f"{options.zip}: the official reader accepts all of it")
    for problem in problems:
        print(printable(str(problem)))
    if not problems:
        print(f"{options.zip}: no problems found")
    return exit_code(problems)


def _score(options: argparse.Namespace) -> int:
    from cellmap_pipeline.io.files import write_json
    from cellmap_pipeline.scoring.rules.registry import NEWEST_RULES, rules_named
    from cellmap_pipeline.scoring.submission import score_submission
    from cellmap_pipeline.scoring.summary import overall_scores, write_csv

    _must_exist(options.zip, options.truth)
    rows = _manifest(options)
    scores = score_submission(
        options.zip,
        options.truth,
        rows,
        options.workers,
        options.memory_gb,
        options.without_collisions,
        options.rules or NEWEST_RULES,
    )
    write_json(options.output, scores)
    write_csv(scores, options.output.with_suffix(".csv"))
    for name, value in overall_scores(scores).items():
        print(f"{name:45} {value:.6f}")
    rules = rules_named(scores["rules"])
    if rules.note:
        print(f"note on the rules of {rules.name}: {rules.note}")
    if options.without_collisions and not rules.without_collisions:
        print(f"note on --without-collisions: no ids collide by the rules of {rules.name}")
    return _compare_officially(options, rows, scores) if options.official else 0


def _compare_officially(options: argparse.Namespace, rows: list, scores: dict) -> int:
    from cellmap_pipeline.submission.official_agreement import compare_officially

    try:
        agrees, message = compare_officially(
            options.zip, options.truth, rows, scores, options.workers, options.memory_gb
        )
    except InputError as error:
        print(f"note: {error}", file=sys.stderr)
        return 2
    print(message)
    return 0 if agrees else 2


def _leaderboard(options: argparse.Namespace) -> int:
    from cellmap_pipeline.plan.paths import ResultPaths
    from cellmap_pipeline.scoring.leaderboard import leaderboard, write_leaderboard

    table = leaderboard(*ResultPaths(options.folder).existing_scores(), options.rules)
    print(table.to_string(index=False, na_rep="", float_format="{:.3f}".format))
    if options.output:
        write_leaderboard(table, options.output)
    return 0


def _manifest(options: argparse.Namespace) -> list:
    from cellmap_pipeline.data.manifest import local_manifest, read_manifest

    key = "--manifest"
    return read_manifest(local_manifest(options.manifest, Path("."), key), key)


def _must_exist(*paths: Path | None) -> None:
    for path in paths:
        if path and not path.exists():
            raise InputError(f"{path} does not exist (looked in {Path.cwd()}): correct the path")


if __name__ == "__main__":
    sys.exit(main())
