"""`cellmap-pipeline view`: look at a crop in the browser."""

from __future__ import annotations

import argparse

from cellmap_pipeline.commands.arguments import add_configfile

MAX_PORT = 65535


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "view",
        help="look at a crop in the browser: raw, ground truth, probabilities and labels",
        description="Show a crop in the browser, in Neuroglancer: raw, ground truth, the "
        "probabilities of each training and the final labels, as far as they exist.",
    )
    command.add_argument("crop", type=int, help="number of the crop")
    add_configfile(command)
    command.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="default: all")
    command.add_argument("--port", type=_port, default=0, help="default: a free port")
    command.add_argument(
        "--address", default="127.0.0.1", help="address to listen at; default: %(default)s"
    )
    command.add_argument("--no-browser", action="store_true", help="only print the link")
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Serve the crop until the command is interrupted."""
    from cellmap_pipeline.config.load import read_run
    from cellmap_pipeline.report.crop_layers import find_layers
    from cellmap_pipeline.report.viewer import view

    crop = find_layers(read_run(options.configfile), options.crop, options.classes)
    view(crop, options.address, options.port, not options.no_browser)
    return 0


def _port(text: str) -> int:
    """Parse the number of a port, 0 for any free one."""
    port = int(text)
    if not 0 <= port <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to {MAX_PORT}, not {text}")
    return port
