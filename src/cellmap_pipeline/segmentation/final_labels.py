"""The final label of a crop, from the predictions of one source or the mean of several."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.colors import to_rgb

from cellmap_pipeline.channels import further
from cellmap_pipeline.classes import is_instance, look_of
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.io.files import put_in_place
from cellmap_pipeline.io.ngff import read_json, write_json
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.segmentation.block_segment import segment_blocks
from cellmap_pipeline.segmentation.methods import NEEDS, complete
from cellmap_pipeline.segmentation.probabilities import Probabilities, Source
from cellmap_pipeline.segmentation.segment import segment

log = logging.getLogger(__name__)

# Packaging copies arrays so marked without a look at their values.
LABELS = {"cellmap_pipeline": {"kind": "labels"}}
# Volumes of more voxels are worked on in blocks: up to there, memory stays below 4 GB.
IN_MEMORY = 28_000_000
IN_MEMORY_OF = {"mutex_watershed": 12_000_000}


def write_empty(row: CropLabel, output: Path) -> None:
    """Write a label without any voxel on a row's grid."""
    beside = output.with_name(output.name + ".partial")
    create(beside, row.grid, "uint8", LABELS)
    _finish(beside, row.label, output)


def segment_crop(
    row: CropLabel,
    sources: Sequence[Source],
    tuned: Mapping[str, Any],
    own: Mapping[str, Any],
    output: Path,
    threads: int = 1,
) -> None:
    """Make the label of a manifest row and write it on its grid.

    Parameters
    ----------
    row
        Which label of which crop, on which grid.
    sources
        Predictions whose mean is taken (`probabilities.Source`).
    tuned
        post-processing settings found in validation.
    own
        Settings of the user's, which go before.
    output
        Where the label goes, a volume with `s0`: semantic uint8 0/1, instances the smallest
        unsigned type that holds the ids.
    threads
        That work side by side; changes no result.
    """
    probabilities = Probabilities(row.label, row.grid, sources)
    method = own.get("method", tuned.get("method"))
    lacking = NEEDS.get(method, "") not in ["", *further(row.label, probabilities.channels)]
    if method != tuned.get("method") or lacking:
        # Found for another method, or for channels that not all sources have.
        tuned = {}
    settings = {**tuned, **own}
    beside = output.with_name(output.name + ".partial")
    settings = complete(row.label, settings, further(row.label, probabilities.channels))
    if row.grid.size > IN_MEMORY_OF.get(settings["method"], IN_MEMORY):
        segment_blocks(probabilities, settings, beside, LABELS, threads)
    else:
        voxel_size = row.grid.voxel_size
        labels = segment(row.label, probabilities.read(), voxel_size, settings, threads)
        create(beside, row.grid, labels.dtype.name, LABELS).write(labels).result()
    _finish(beside, row.label, output)


def _finish(beside: Path, label: str, output: Path) -> None:
    """Say that a volume holds labels, so that viewers show it so, and make it the output.

    `image-label` of OME-NGFF 0.4; a class without objects has its colour of all figures.
    """
    metadata: dict[str, Any] = {"version": "0.4"}
    if not is_instance(label):
        red, green, blue = (round(255 * part) for part in to_rgb(look_of(label).colour))
        metadata["colors"] = [{"label-value": 1, "rgba": [red, green, blue, 255]}]
    attributes = beside / ".zattrs"
    write_json(attributes, read_json(attributes) | {"image-label": metadata})
    put_in_place(beside, output)
