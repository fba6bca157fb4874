"""`cellmap-pipeline export`: a trained network as files for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from cellmap_pipeline.commands.arguments import add_configfile

# Of `export.forms.FORM_NAMES`, which is imported with torch.
FORMS = ("torch-export", "torchscript", "onnx", "bioimageio")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "export",
        help="export a trained network for other programs: torch, ONNX, cellmap-flow, bioimage.io",
        description="Write a trained network with its normalization, hierarchy and sigmoid as one "
        "graph, in forms that other programs load, with a model card. Each form is read back and "
        "compared with the checkpoint.",
    )
    command.add_argument(
        "name", help="a training, of which all folds are exported, or one fold: NAME/fold0"
    )
    add_configfile(command)
    command.add_argument(
        "--output",
        type=Path,
        default=Path("exports"),
        metavar="FOLDER",
        help="where the folder NAME, or NAME_fold0 and so on, is written; default: %(default)s",
    )
    command.add_argument(
        "--forms", nargs="+", choices=FORMS, default=FORMS, metavar="FORM",
        help=f"forms to write, of {', '.join(FORMS)}; default: all",
    )  # fmt: skip
    command.add_argument(
        "--license", metavar="SPDX", help="license of the weights, such as CC-BY-4.0; default: none"
    )
    command.add_argument(
        "--authors", nargs="+", default=[], metavar="AUTHOR", help="names for the model card"
    )
    command.add_argument(
        "--dataset",
        help="the dataset whose raw it is exported for; needed where raw is normalized by the "
        "statistics of several",
    )
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Export the networks, and print their folders."""
    from cellmap_pipeline.export.export import ExportOptions, export
    from cellmap_pipeline.plan.make import read_plan

    wanted = ExportOptions(options.forms, options.license, options.authors, options.dataset)
    for folder in export(read_plan(options.configfile), options.name, options.output, wanted):
        print(f"wrote {folder}")
    return 0
