"""The final label of a crop, from one prediction or the mean of several."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.colors import to_rgb

from cellmap_pipeline.channels import auxiliary_kinds
from cellmap_pipeline.classes import is_instance, style_of
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.io.files import atomic_folder
from cellmap_pipeline.io.volumes import add_attributes, create
from cellmap_pipeline.segmentation.blocks import split_into_blocks
from cellmap_pipeline.segmentation.blockwise.segment import segment_blocks
from cellmap_pipeline.segmentation.method_settings import complete, find_method, usable_methods
from cellmap_pipeline.segmentation.methods import Settings
from cellmap_pipeline.segmentation.probabilities import Prediction, Probabilities
from cellmap_pipeline.segmentation.segment import segment

log = logging.getLogger(__name__)

# Packaging copies arrays with these attributes without checking their values.
LABEL_ATTRIBUTES = {"cellmap_pipeline": {"kind": "labels"}}


def write_empty(row: CropLabel, output: Path) -> None:
    """Write a label without any voxel on a row's grid."""
    with atomic_folder(output) as tmp:
        create(tmp, row.grid, "uint8", LABEL_ATTRIBUTES)
        _mark_as_labels(tmp, row.label)


def segment_crop(
    row: CropLabel,
    predictions: Sequence[Prediction],
    tuned: Mapping[str, Any],
    configured: Mapping[str, Any],
    output: Path,
    threads: int = 1,
) -> None:
    """Make the label of a manifest row and write it on the row's grid.

    If the label is empty although some probability is not 0, a warning is logged.

    Parameters
    ----------
    row
        Which label of which crop, on which grid.
    predictions
        Predictions, of which the mean is taken.
    tuned
        Post-processing settings found in validation.
    configured
        Post-processing settings of the configuration, which override tuned ones.
    output
        Where the label is written, a volume with `s0`: semantic uint8 0/1, instances the smallest
        unsigned type that holds the ids.
    threads
        Number of threads or processes; it does not change the result.
    """
    probabilities = Probabilities(row.label, row.grid, predictions)
    predicted = auxiliary_kinds(row.label, probabilities.channels)
    name = configured.get("method", tuned.get("method"))
    if name != tuned.get("method") or name not in {None, *usable_methods(row.label, predicted)}:
        # They were tuned for another method, or for channels that some predictions lack.
        unused, tuned = tuned, {}
    else:
        unused = {}
    settings = complete(row.label, {**tuned, **configured}, predicted)
    if unused and "method" not in configured:
        log.warning(
            "%s/crop%d: settings of %s were tuned for %s, for which predictions lack channels: %s "
            "is used, with its defaults",
            row.dataset, row.crop, row.label, unused["method"], settings["method"],
        )  # fmt: skip
    with atomic_folder(output) as tmp:
        method = find_method(settings)
        if row.grid.size > method.max_voxels_in_memory:
            labeled = segment_blocks(probabilities, settings, tmp, LABEL_ATTRIBUTES, threads)
        else:
            voxel_size = row.grid.voxel_size
            channels = probabilities.read(
                channels=method.channels(row.label, probabilities.channels)
            )
            labels = segment(row.label, channels, voxel_size, settings, threads)
            create(tmp, row.grid, labels.dtype.name, LABEL_ATTRIBUTES).write(labels).result()
            labeled = bool(labels.any())
        _mark_as_labels(tmp, row.label)
    if not labeled:
        _warn_of_empty_label(row, probabilities, settings)


def _warn_of_empty_label(row: CropLabel, probabilities: Probabilities, settings: Settings) -> None:
    blocks = split_into_blocks(row.grid.shape, find_method(settings).block_voxels)
    highest = max(probabilities.read(block, [row.label])[row.label].max() for block in blocks)
    if highest:
        log.warning(
            "%s/crop%d: %s is empty: its largest probability is %.3f, the threshold %g after "
            "smoothing by %g nm, and objects below %g nm³ are removed",
            row.dataset, row.crop, row.label, highest / 255, settings["threshold"],
            settings["smooth_nm"], settings["min_size_nm3"],
        )  # fmt: skip


def _mark_as_labels(path: Path, label: str) -> None:
    """Add `image-label` of OME-NGFF 0.4, so that viewers show the volume as labels.

    A semantic class has the color that it has in all figures.
    """
    metadata: dict[str, Any] = {"version": "0.4"}
    if not is_instance(label):
        red, green, blue = (round(255 * part) for part in to_rgb(style_of(label).color))
        metadata["colors"] = [{"label-value": 1, "rgba": [red, green, blue, 255]}]
    add_attributes(path, {"image-label": metadata})
