"""Labels to import, with what their values mean, as specified by cellmap-schemas."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.data.importing.sources.source import VolumeSource
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.label_resampling import resample_labels
from cellmap_pipeline.io.labels import Encoding
from cellmap_pipeline.io.volumes import add_attributes

log = logging.getLogger(__name__)


class Labels:
    """How the voxels of a label are written; see `VolumeKind`.

    Parameters
    ----------
    source
        The volume, whose voxels are 0 in the background.
    label
        Name of the class.
    unknown
        Value of voxels that are not annotated, if there are any.

    Raises
    ------
    InputError
        The voxels are no whole numbers, or have no such value.
    """

    stores_zeros = False

    def __init__(self, source: VolumeSource, label: str, unknown: int | None = None) -> None:
        if source.dtype.kind not in "biu":
            raise InputError(
                f"{source.name} is {source.dtype}, but labels are whole numbers: save them as "
                "integers"
            )
        self.dtype = f"uint{8 * source.dtype.itemsize}"
        if unknown is not None and not 0 < unknown <= np.iinfo(self.dtype).max:
            raise InputError(
                f"--unknown {unknown} is no value of {self.dtype} other than 0, the background"
            )
        self.name = source.name
        self.label = label
        self.encoding = Encoding(unknown)
        # By level, the number of unlabeled voxels of each kind.
        self.counts: defaultdict[int, Counter[str]] = defaultdict(Counter)

    @property
    def values(self) -> dict[str, int]:
        """The values of unlabeled voxels, by their names in cellmap-schemas."""
        unknown = self.encoding.unknown
        return {"absent": self.encoding.absent} | ({} if unknown is None else {"unknown": unknown})

    def convert(self, values: NDArray) -> NDArray:
        """Convert a part of the volume to an unsigned type.

        Raises
        ------
        InputError
            A value is negative.
        """
        if values.dtype.kind == "i" and (lowest := values.min()) < 0:
            raise InputError(
                f"{self.name} holds {lowest}, but ids are 0 or more: store unknown voxels as a "
                "value that no object has, and name it by --unknown"
            )
        return values.astype(self.dtype, copy=False)

    def downsample(self, values: NDArray, source: Grid, target: Grid) -> NDArray:
        """Resample to a coarser grid, as labels are read at coarser voxels."""
        ids, known = resample_labels(*self.encoding.decode(values), source, target)
        if self.encoding.unknown is not None:
            ids[~known] = self.encoding.unknown
        return ids

    def count(self, level: int, values: NDArray) -> None:
        """Count the unlabeled voxels of a part of a level."""
        for name, value in self.values.items():
            self.counts[level][name] += int(np.count_nonzero(values == value))

    def finish(self, path: Path) -> None:
        """Add the annotation to the attributes of the volume and its levels."""
        if self.counts[0].get("unknown") == 0:
            log.warning(
                "warning: no voxel of %s is %d, the value of --unknown, so that all of them count "
                "as annotated: is it right?",
                self.name, self.encoding.unknown,
            )  # fmt: skip
        kind = "instance" if is_instance(self.label) else "semantic"
        annotation = {
            "class_name": self.label,
            "annotation_type": {"type": f"{kind}_segmentation", "encoding": self.values},
        }
        # By `image-label` of OME-NGFF, viewers show the volume as labels.
        named = {"cellmap": {"annotation": annotation}, "image-label": {"version": "0.4"}}
        add_attributes(path, named)
        for level, counts in self.counts.items():
            own = annotation | {"complement_counts": dict(counts)}
            add_attributes(path / f"s{level}", {"cellmap": {"annotation": own}})
