"""`cellmap-pipeline measure`: volume, surface and position of each object of labels."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "measure",
        help="measure each object of labels: volume, surface, position, as a table (CSV)",
        description="Measure the objects of labels: volume (µm³), surface (µm²), center (nm, world "
        "coordinates), and whether they touch the border of the crop, where they may be cut. An "
        "object is what has the same id, so a semantic class is one as a whole.",
    )
    command.add_argument(
        "labels", type=Path, help="a label, or a folder of them, such as results/segmentations"
    )
    command.add_argument(
        "--output", type=Path, default=Path("objects.csv"), help="default: %(default)s"
    )
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Write the table."""
    from cellmap_pipeline.measurement.table import find_labels, measure_labels, write_table

    labels = find_labels(options.labels)
    table = measure_labels(labels)
    write_table(table, options.output)
    print(f"wrote {len(table)} objects of {len(labels)} labels to {options.output}")
    return 0
