"""Pseudo-labels: what a teacher is sure of around the training crops of another training.

They are known only outside of all annotated crops and of the test crops: inside, the ground truth
of training crops is learned, and nothing of the others.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.files import atomic_folder, write_json
from cellmap_pipeline.io.volumes import CHUNK, Volume, create
from cellmap_pipeline.patches.crops import PSEUDO_LABELS_SUMMARY, CropData
from cellmap_pipeline.prediction.teacher import fill_overlaps

log = logging.getLogger(__name__)

PRESENT, ABSENT, UNKNOWN = VALUES = 1, 0, 255
ENCODING = {"present": PRESENT, "absent": ABSENT, "unknown": UNKNOWN}
ATTRIBUTES = {"cellmap": {"annotation": {"annotation_type": {"encoding": ENCODING}}}}
PROBABILITY_ONE = 255


@dataclass(frozen=True)
class WrittenLabel:
    """The numbers of voxels of each value in a volume of pseudo-labels, and a digest of all."""

    present: int
    absent: int
    unknown: int
    sha256: str

    @property
    def known(self) -> bool:
        """Whether any voxel is known."""
        return self.present + self.absent > 0


def write_pseudo_labels(
    crops: Sequence[CropData],
    hidden: Mapping[str, Sequence[Grid]],
    classes: Sequence[str],
    at_least: float,
    predictions: Path,
    output: Path,
) -> None:
    """Write the pseudo-labels around the training crops of a network.

    Parameters
    ----------
    crops
        The network's training crops.
    hidden
        By crop, extents within which nothing is known (`prediction.teacher.hidden_extents`).
    classes
        The classes that the teacher predicted.
    at_least
        Probability from which on a voxel is of a class; it is not of it up to 1 minus that.
    predictions
        The teacher's predictions (`prediction.teacher.predict_surroundings`).
    output
        Folder for the pseudo-labels, `{dataset}/crop{id}/{label}`, on the grids of the
        predictions: uint8, 0 absent, 1 present, 255 unknown. Crops around which nothing is known
        have no folder. `summary.json` has the number of voxels of each value, and a digest.

    Raises
    ------
    InputError
        Around no crop there is a voxel of which the teacher is sure.
    """
    written: dict[str, dict[str, WrittenLabel]] = {}
    with atomic_folder(output) as tmp:
        for crop in tqdm(crops, desc="Labeling around crops", unit="crop", disable=None):
            if not (predictions / crop.name).is_dir():
                continue
            written[crop.name] = {
                label: _write_label(
                    predictions / crop.name / label,
                    hidden[crop.name],
                    at_least,
                    tmp / crop.name / label,
                )
                for label in classes
            }
            if not any(label.known for label in written[crop.name].values()):
                (tmp / crop.name).rmdir()
        _report(written, classes, at_least)
        summary = {
            name: {label: asdict(done) for label, done in by_label.items()}
            for name, by_label in written.items()
        }
        write_json(tmp / PSEUDO_LABELS_SUMMARY, summary)


def pseudo_labels(probabilities: NDArray[np.uint8], at_least: float) -> NDArray[np.uint8]:
    """Turn probabilities, 0..255 for 0..1, into pseudo-labels: 0, 1, or 255 where not sure."""
    labels = np.full(probabilities.shape, UNKNOWN, np.uint8)
    labels[probabilities >= at_least * PROBABILITY_ONE] = PRESENT
    # Not compared to 1 - at_least, which is rounded: 51 of 255 is sure at 0.8, just as 204 is.
    labels[PROBABILITY_ONE - probabilities >= at_least * PROBABILITY_ONE] = ABSENT
    return labels


def _write_label(
    prediction: Path, hidden: Sequence[Grid], at_least: float, output: Path
) -> WrittenLabel:
    """Write the pseudo-labels of a class around a crop, unless all of them are unknown."""
    (level,) = Volume.open(prediction).levels
    planes, *plane = level.grid.shape
    array = create(output, level.grid, "uint8", ATTRIBUTES, CHUNK)
    counts: Counter[int] = Counter()
    digest = hashlib.sha256(repr(level.grid).encode())
    for first in range(0, planes, CHUNK):
        last = min(first + CHUNK, planes)
        labels = pseudo_labels(level.read((first, 0, 0), (last, *plane)), at_least)
        slab = level.grid.box((first, 0, 0), (last - first, *plane))
        fill_overlaps(labels, slab, hidden, UNKNOWN)
        array[first:last].write(labels).result()
        counts.update({value: int(np.count_nonzero(labels == value)) for value in VALUES})
        digest.update(labels.tobytes())
    written = WrittenLabel(counts[PRESENT], counts[ABSENT], counts[UNKNOWN], digest.hexdigest())
    if not written.known:
        shutil.rmtree(output)
    return written


def _report(
    written: Mapping[str, Mapping[str, WrittenLabel]], classes: Sequence[str], at_least: float
) -> None:
    """Log what is known of each class.

    Raises
    ------
    InputError
        Nothing is known of any class.
    """
    known = 0
    for label in classes:
        of_label = [by_label[label] for by_label in written.values()]
        present = sum(done.present for done in of_label)
        absent = sum(done.absent for done in of_label)
        known += present + absent
        log.info(
            "%s: %s voxels are known, around %d crops, %.2f %% of them present",
            label, f"{present + absent:,}", sum(done.known for done in of_label),
            100 * present / max(1, present + absent),
        )  # fmt: skip
    if not known:
        raise InputError(
            f"teach: around no crop is there a voxel that the teacher is sure of (`at_least: "
            f"{at_least:g}`) and that lies in no annotated crop or test crop: lower `at_least`, "
            "raise `margin_nm`, or remove `teach`"
        )
