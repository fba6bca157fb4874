"""The command line of what also works without Snakemake."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cellmap_pipeline.errors import InputError

MANIFEST_HELP = "test-crop manifest, path or URL"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 where all is well.

    `run` becomes `snakemake` with the arguments that follow, and ends as that does.
    `check` and `package` end with 1 where the submission would be rejected, with 2 where it would
    be accepted but loses score. Any command ends with 1 on bad input.
    """
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if options.run is _run:
        options.arguments = list(sys.argv[1:] if arguments is None else arguments)[1:]
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    try:
        return options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cellmap-pipeline", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    # Its arguments are Snakemake's.
    run = commands.add_parser(
        "run", help="snakemake, after what a run that died left is put in order", add_help=False
    )
    run.set_defaults(run=_run)

    view = commands.add_parser("view", help="look at a crop in the browser")
    view.add_argument("crop", type=int, help="its number")
    view.add_argument("--configfile", type=Path, default=Path("config/config.yaml"))
    view.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="default: all")
    view.add_argument("--port", type=int, default=0, help="default: a free one")
    view.add_argument("--address", default="127.0.0.1", help="to listen at; default: %(default)s")
    view.add_argument("--no-browser", action="store_true", help="only print the link")
    view.set_defaults(run=_view)

    status = commands.add_parser("status", help="how far a run is, and how long it still takes")
    status.add_argument("--configfile", type=Path, default=Path("config/config.yaml"))
    status.add_argument("--watch", action="store_true", help="go on until the run ends")
    status.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="default: %(default)g"
    )
    status.set_defaults(run=_status)

    demo = commands.add_parser("demo-data", help="make the demo data")
    demo.add_argument("folder", type=Path)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--size", choices=["full", "small"], default="full")
    demo.set_defaults(run=_demo_data)

    package = commands.add_parser(
        "package", help="make submission.zip of a folder of {dataset}/crop{id}/{label}"
    )
    package.add_argument("folder", type=Path, help="labels or probabilities, zarr 2")
    package.add_argument("--manifest", required=True, help=MANIFEST_HELP)
    package.add_argument("--output", type=Path, default=Path("submission.zip"))
    package.set_defaults(run=_package, truth=None, official=False)

    check = commands.add_parser("check", help="hold a submission.zip against the manifest")
    check.add_argument("zip", type=Path)
    check.add_argument("--manifest", required=True, help=MANIFEST_HELP)
    check.add_argument("--truth", type=Path, help="hold the number of objects against this, too")
    check.add_argument(
        "--official", action="store_true", help="let the official toolbox read it, too"
    )
    check.set_defaults(run=_check)

    score = commands.add_parser("score", help="the official scores of a submission.zip")
    score.add_argument("zip", type=Path)
    score.add_argument("--truth", type=Path, required=True, help="zarr with crop{id}/{label}")
    score.add_argument("--manifest", required=True, help=MANIFEST_HELP)
    score.add_argument("--output", type=Path, default=Path("scores.json"), help="and .csv beside")
    score.add_argument("--memory-gb", type=float, help="default: half of the machine's")
    score.add_argument(
        "--without-collisions",
        action="store_true",
        help="also give the scores without the effect of the evaluator's colliding ids",
    )
    score.set_defaults(run=_score)

    for command in (package, check, score):
        command.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")

    board = commands.add_parser("leaderboard", help="compare all trainings in a results folder")
    board.add_argument("folder", type=Path)
    board.add_argument("--output", type=Path, help="write it as CSV, too")
    board.set_defaults(run=_leaderboard)
    return parser


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
    from cellmap_pipeline.report.status import look
    from cellmap_pipeline.report.status_table import show, watch

    plan = read_plan(options.configfile)
    if options.watch:
        watch(plan, options.every)
    else:
        Console().print(show(look(plan)))
    return 0


def _demo_data(options: argparse.Namespace) -> int:
    from cellmap_pipeline.demo.make import make_demo

    make_demo(options.folder, seed=options.seed, size=options.size)
    return 0


def _package(options: argparse.Namespace) -> int:
    from cellmap_pipeline.submission.package import package

    _must_exist(options.folder)
    rows = _manifest(options)
    package(options.folder, rows, options.output)
    print(f"wrote {options.output}")
    options.zip = options.output
    return _check(options)


def _check(options: argparse.Namespace) -> int:
    from cellmap_pipeline.submission.check import check, exit_code
    from cellmap_pipeline.submission.official_reader import check_officially

    _must_exist(options.zip, options.truth)
    rows = _manifest(options)
    problems = check(options.zip, rows, options.truth, options.workers)
    if options.official:
        try:
            found = check_officially(options.zip, rows)
        except InputError as error:
            print(f"note: {error}", file=sys.stderr)
        else:
            problems += found
            if not found:
                print(f"{options.zip}: the official reader takes all of it")
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{options.zip}: fine")
    return exit_code(problems)


def _score(options: argparse.Namespace) -> int:
    import json

    from cellmap_pipeline.scoring.submission import score_submission
    from cellmap_pipeline.scoring.summary import overall_scores, write_csv

    _must_exist(options.zip, options.truth)
    scores = score_submission(
        options.zip,
        options.truth,
        _manifest(options),
        options.workers,
        options.memory_gb,
        options.without_collisions,
    )
    options.output.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    write_csv(scores, options.output.with_suffix(".csv"))
    for name, value in overall_scores(scores).items():
        print(f"{name:45} {value:.6f}")
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    from cellmap_pipeline.scoring.leaderboard import leaderboard, write_leaderboard

    table = leaderboard(options.folder)
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
