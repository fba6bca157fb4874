"""The final label of a crop, from the predictions of one source or the mean of several."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.block_segmentation import segment_blocks
from cellmap_pipeline.classes import further
from cellmap_pipeline.manifest import CropLabel
from cellmap_pipeline.postprocess import NEEDS, complete
from cellmap_pipeline.probabilities import Probabilities, Source
from cellmap_pipeline.segmentation import segment
from cellmap_pipeline.volumes import create

# Packaging copies arrays so marked without a look at their values.
LABELS = {"cellmap_pipeline": {"kind": "labels"}}
# Volumes of more voxels are worked on in blocks: up to there, memory stays below 4 GB.
IN_MEMORY = 28_000_000
IN_MEMORY_OF = {"mutex_watershed": 12_000_000}


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
    row : which label of which crop, on which grid.
    sources : predictions whose mean is taken (`probabilities.Source`).
    tuned : post-processing settings found in validation.
    own : settings of the user's, which go before.
    output : where the label goes, a volume with `s0`: semantic uint8 0/1, instances the smallest
        unsigned type that holds the ids.
    threads : that work side by side; changes no result.
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
    shutil.rmtree(output, ignore_errors=True)
    beside.rename(output)
