"""What a label is tuned and scored on: validation crops with its truth and its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.geometry import Grid, Vector, middle
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import predicted
from cellmap_pipeline.segmentation.probabilities import Probabilities


@dataclass(frozen=True)
class Case:
    """One crop to tune on.

    Attributes
    ----------
    channels
        Probabilities as `segmentation.segment` takes them.
    truth
        Ids (z, y, x), 0 is background; for semantic labels all above 0 is inside.
    known
        bool (z, y, x), where the truth is known; None: everywhere.
    voxel_size
        nm, z, y, x.
    """

    channels: Mapping[str, NDArray[np.uint8]]
    truth: NDArray[Any]
    known: NDArray[np.bool_] | None
    voxel_size: Sequence[float]

    def where_known(self, labels: NDArray[Any]) -> NDArray[Any]:
        """`labels` without the voxels of unknown truth."""
        return labels if self.known is None else np.where(self.known, labels, labels.dtype.type(0))


@dataclass(frozen=True)
class Truth:
    """A label's truth in a crop and its predictions, on voxels of the truth; not read yet.

    Attributes
    ----------
    crop
        Its name.
    volume
        The truth.
    probabilities
        On the part of the truth's grid that is predicted.
    """

    crop: str
    volume: LabelVolume
    probabilities: Probabilities

    @property
    def grid(self) -> Grid:
        """Of the voxels."""
        return self.probabilities.grid

    def load(self) -> Case:
        """Read all of it."""
        ids, known = self.volume.read(self.grid)
        return Case(
            channels=self.probabilities.read(),
            truth=ids,
            known=None if known.all() else known,
            voxel_size=self.grid.voxel_size,
        )

    def on(self, grid: Grid) -> Truth:
        """A part of it."""
        return replace(self, probabilities=replace(self.probabilities, grid=grid))

    def middle(self, most: int) -> Truth:
        """The middle of it, of about so many voxels at most."""
        return self.on(middle(self.grid, most))

    def densest(self, most: int) -> Truth:
        """A part of about so many voxels at most, the one with most of the label among some."""
        shape = middle(self.grid, most).shape
        if shape == self.grid.shape:
            return self
        inside = self.volume.read(self.grid)[0] > 0
        # The middle first: it wins where nothing is denser.
        room = [n - s for n, s in zip(self.grid.shape, shape, strict=True)]
        places = [[m // 2, 0, m] for m in room]
        starts = list(dict.fromkeys(product(*places)))
        counts = [
            np.count_nonzero(inside[tuple(map(slice, start, map(add, start, shape)))])
            for start in starts
        ]
        return self.on(self.grid.box(starts[int(np.argmax(counts))], shape))


def find_truths(
    label: str,
    voxel_size: Vector | None,
    sources: Sequence[tuple[str, Sequence[str]]],
    crops: Iterable[ValidationCrop],
) -> list[Truth]:
    """The crops in which a label is both annotated and predicted.

    Parameters
    ----------
    voxel_size
        nm; of each truth the resolution nearest to it is taken, or the finest for None.
    sources
        Path with {dataset}, {crop} and {label}, and the parts that the label is made of, of each
        prediction whose mean is taken.
    """
    found = []
    for crop in crops:
        paths = [
            [crop.prediction(path, name) for name in parts or [label]] for path, parts in sources
        ]
        there = all(path.is_dir() for source in paths for path in source)
        truth = crop.truth(label, voxel_size) if there else None
        if truth is None:
            continue
        volume, grid = truth
        if part := predicted(grid, chain.from_iterable(paths)):
            found.append(Truth(crop.name, volume, Probabilities(label, part, paths)))
    return found
