"""`cellmap-pipeline score`: the official scores of a submission.zip."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cellmap_pipeline.commands.arguments import add_manifest, add_scoring, must_exist, read_rows
from cellmap_pipeline.errors import InputError


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "score",
        help="compute the official scores of a submission.zip whose ground truth you have",
        description="Compute the official scores of a submission.zip, per label, per class and "
        "overall, where the ground truth is known.",
        epilog="With --official, the exit code is 2 unless the official toolbox agrees.",
    )
    command.add_argument("zip", type=Path, help="the submission")
    command.add_argument(
        "--truth", type=Path, required=True, help="ground truth: zarr with crop{id}/{label}"
    )
    add_manifest(command)
    command.add_argument(
        "--output",
        type=Path,
        default=Path("scores.json"),
        help="file .json; a .csv is written next to it",
    )
    command.add_argument("--memory-gb", type=float, help="default: half of the machine's memory")
    command.add_argument(
        "--without-collisions",
        action="store_true",
        help="also report scores without the effect of colliding ids in the evaluator",
    )
    command.add_argument(
        "--official",
        action="store_true",
        help="also score it with the official toolbox, and report which rules agree with it",
    )
    add_scoring(command)
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Write the scores, and print the overall ones."""
    from cellmap_pipeline.io.files import write_json
    from cellmap_pipeline.scoring.rules.registry import NEWEST_RULES, rules_named
    from cellmap_pipeline.scoring.submission import score_submission
    from cellmap_pipeline.scoring.summary import overall_scores, write_csv

    must_exist(options.zip, options.truth)
    if options.output.suffix != ".json":
        raise InputError(
            f"--output: {options.output} must end with .json; a .csv of the same name is written "
            "next to it"
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(options)
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
