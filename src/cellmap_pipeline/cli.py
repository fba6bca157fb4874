"""The command line of what also works without Snakemake."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cellmap_pipeline.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 where all is well.

    `run` becomes `snakemake` with the arguments that follow, and ends as that does.
    `check` and `package` end with 1 where the submission would be rejected, with 2 where it would
    be accepted but loses score. Any command ends with 1 on bad input.
    """
    parser = argparse.ArgumentParser(prog="cellmap-pipeline", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    # Its arguments are Snakemake's.
    run = commands.add_parser(
        "run", help="snakemake, after what a run that died left is put in order", add_help=False
    )
    run.set_defaults(run=_run)

    demo = commands.add_parser("demo-data", help="make the demo data")
    demo.add_argument("folder", type=Path)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--size", choices=["full", "small"], default="full")
    demo.set_defaults(run=_demo_data)

    package = commands.add_parser(
        "package", help="make submission.zip of a folder of {dataset}/crop{id}/{label}"
    )
    package.add_argument("folder", type=Path, help="labels or probabilities, zarr 2")
    package.add_argument("--manifest", required=True, help="test-crop manifest, path or URL")
    package.add_argument("--output", type=Path, default=Path("submission.zip"))
    package.set_defaults(run=_package)

    check = commands.add_parser("check", help="hold a submission.zip against the manifest")
    check.add_argument("zip", type=Path)
    check.add_argument("--manifest", required=True, help="test-crop manifest, path or URL")
    check.set_defaults(run=_check)

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


def _run(options: argparse.Namespace) -> int:
    from cellmap_pipeline.running import start

    start(options.arguments)
    return 0


def _demo_data(options: argparse.Namespace) -> int:
    from cellmap_pipeline.demo import make_demo

    make_demo(options.folder, seed=options.seed, size=options.size)
    return 0


def _package(options: argparse.Namespace) -> int:
    from cellmap_pipeline.packaging import package

    rows = _manifest(options)
    package(options.folder, rows, options.output)
    print(f"wrote {options.output}")
    return _report(options.output, options)


def _check(options: argparse.Namespace) -> int:
    return _report(options.zip, options)


def _report(path: Path, options: argparse.Namespace) -> int:
    from cellmap_pipeline.checking import check

    problems = check(path, _manifest(options))
    for problem in problems:
        print(problem)
    if any(problem.severity == "rejected" for problem in problems):
        return 1
    if problems:
        return 2
    print(f"{path}: fine")
    return 0


def _manifest(options: argparse.Namespace) -> list:
    from cellmap_pipeline.manifest import local_manifest, read_manifest

    return read_manifest(local_manifest(options.manifest, Path(".")))


if __name__ == "__main__":
    sys.exit(main())
