"""`cellmap-pipeline import`: volumes of other formats, in the layout that the workflow reads."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from cellmap_pipeline.errors import InputError


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "import",
        help="import your own volume or annotation: TIFF, PNG, HDF5, MRC, N5 or zarr",
        description="Import raw, or with --crop and --label an annotated class, into a dataset in "
        "the layout of the challenge. All lengths are in nm, in the order z, y, x.",
    )
    command.add_argument(
        "source",
        type=Path,
        help="a folder of TIFF or PNG sections; a TIFF, HDF5 or MRC file; an N5 or zarr array",
    )
    command.add_argument(
        "dataset", type=Path, help="folder of the dataset, made if needed: DATA_ROOT/NAME"
    )
    command.add_argument(
        "--voxel-size", type=float, nargs=3, required=True, metavar=("Z", "Y", "X"),
        help="size of a voxel, nm",
    )  # fmt: skip
    command.add_argument(
        "--translation", type=float, nargs=3, default=(0, 0, 0), metavar=("Z", "Y", "X"),
        help="position of the center of the first voxel, nm; default: 0 0 0",
    )  # fmt: skip
    command.add_argument("--array", metavar="PATH", help="path of the array in HDF5, N5 or zarr")
    command.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="values of raw that become 0 and 255, if it is not uint8",
    )  # fmt: skip
    command.add_argument(
        "--fill-gaps", action="store_true", help="repeat the section before where one is missing"
    )
    labels = command.add_argument_group("annotations")
    labels.add_argument("--crop", type=int, metavar="N", help="number of the training crop")
    labels.add_argument("--label", metavar="CLASS", help="name of the class, such as mito")
    labels.add_argument(
        "--unknown", type=int, metavar="VALUE", help="value of voxels that are not annotated"
    )
    command.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Import the volume, and print where it is."""
    from cellmap_pipeline.data.importing.sources.open_source import open_source
    from cellmap_pipeline.data.importing.volume import import_label, import_raw

    is_label = options.crop is not None and options.label is not None
    if not is_label and (options.crop, options.label, options.unknown) != (None, None, None):
        raise InputError("an annotation takes --crop and --label: give both, or neither for raw")
    if is_label and options.range:
        raise InputError("--range scales raw: leave it out for an annotation")
    position = (tuple(options.voxel_size), tuple(options.translation))
    with contextlib.closing(
        open_source(options.source, options.array, options.fill_gaps)
    ) as source:
        if is_label:
            path = import_label(
                source, options.dataset, options.crop, options.label, *position, options.unknown
            )
        else:
            path = import_raw(source, options.dataset, *position, options.range)
        shape = " × ".join(str(n) for n in source.shape)
        print(f"imported {source.name}, {shape} voxels, to {path}")
    return 0
