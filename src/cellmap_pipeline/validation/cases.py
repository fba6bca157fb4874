"""Validation cases: a label's ground truth and predictions in a validation crop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.geometry import Grid, central_box
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import common_part
from cellmap_pipeline.plan.validation import PredictionPattern
from cellmap_pipeline.scoring.rules.base import DistanceScale
from cellmap_pipeline.segmentation.probabilities import Probabilities


@dataclass(frozen=True)
class LoadedCase:
    """A validation case in memory.

    Attributes
    ----------
    channels
        Probabilities by channel, as for `segmentation.segment`.
    truth
        Ground truth, ids (z, y, x), 0 is background; for semantic labels all ids above 0 are
        inside.
    known
        bool (z, y, x), where the ground truth is known; None means everywhere.
    voxel_size
        nm, z, y, x.
    scale
        Scale of the distances in the whole crop.
    test_scales
        Scales of the distances in the test crops that the label is tuned for.
    """

    channels: Mapping[str, NDArray[np.uint8]]
    truth: NDArray[Any]
    known: NDArray[np.bool_] | None
    voxel_size: Sequence[float]
    scale: DistanceScale
    test_scales: Sequence[DistanceScale]

    def where_known(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Return `labels` with 0 where the ground truth is unknown."""
        return labels if self.known is None else np.where(self.known, labels, labels.dtype.type(0))

    def densest_part(self, max_voxels: int) -> LoadedCase:
        """Return a box of up to `max_voxels`, of several the one with most voxels of the label."""
        z, y, x = self.voxel_size
        whole = Grid((z, y, x), (0, 0, 0), self.truth.shape)
        shape = central_box(whole, max_voxels).shape
        if shape == self.truth.shape:
            return self
        start = _densest_start(self.where_known(self.truth) > 0, shape)
        box = tuple(map(slice, start, map(add, start, shape)))
        return replace(
            self,
            channels={name: values[box].copy() for name, values in self.channels.items()},
            truth=self.truth[box].copy(),
            known=None if self.known is None else self.known[box].copy(),
        )


@dataclass(frozen=True)
class ValidationCase:
    """A label's ground truth in a crop and its predictions, on the voxels of the ground truth.

    Only metadata are held; `load` reads the voxels.

    Attributes
    ----------
    crop
        Name of the crop.
    truth
        Volume of the ground truth.
    probabilities
        Predictions, on the part of the ground truth's grid that they cover.
    scale, test_scales
        As in `LoadedCase`.
    """

    crop: str
    truth: LabelVolume
    probabilities: Probabilities
    scale: DistanceScale
    test_scales: Sequence[DistanceScale]

    @property
    def grid(self) -> Grid:
        """Grid of the voxels that `load` reads."""
        return self.probabilities.grid

    def load(self) -> LoadedCase:
        """Read the ground truth and the predictions."""
        ids, known = self.truth.read(self.grid)
        return LoadedCase(
            channels=self.probabilities.read(),
            truth=ids,
            known=None if known.all() else known,
            voxel_size=self.grid.voxel_size,
            scale=self.scale,
            test_scales=self.test_scales,
        )

    def on(self, grid: Grid) -> ValidationCase:
        """Return the part of this case on `grid`."""
        return replace(self, probabilities=replace(self.probabilities, grid=grid))

    def central_box(self, max_voxels: int) -> ValidationCase:
        """Return the central box of up to `max_voxels`."""
        return self.on(central_box(self.grid, max_voxels))

    def densest_box(self, max_voxels: int) -> ValidationCase:
        """Return a box of up to `max_voxels`, of several the one with most voxels of the label."""
        shape = central_box(self.grid, max_voxels).shape
        if shape == self.grid.shape:
            return self
        inside = self.truth.read(self.grid)[0] > 0
        return self.on(self.grid.box(_densest_start(inside, shape), shape))


def _densest_start(inside: NDArray[np.bool_], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the start of the box that holds most of the voxels that are `inside`.

    Boxes in the center and at the ends of the axes are compared; the central one wins unless
    another one is denser.
    """
    room = [n - s for n, s in zip(inside.shape, shape, strict=True)]
    starts = list(dict.fromkeys(product(*([m // 2, 0, m] for m in room))))
    counts = [
        np.count_nonzero(inside[tuple(map(slice, start, map(add, start, shape)))])
        for start in starts
    ]
    return starts[int(np.argmax(counts))]


def find_cases(
    label: str,
    voxel_size: Sequence[float] | None,
    sources: Sequence[PredictionPattern],
    crops: Iterable[ValidationCrop],
    test_caps_nm: Sequence[float] = (),
) -> list[ValidationCase]:
    """Find the crops in which a label is both annotated and predicted.

    Parameters
    ----------
    label
        Name of the label.
    voxel_size
        nm; each ground truth is read at the resolution nearest to it. None means the finest.
    sources
        Predictions whose mean is taken.
    crops
        Validation crops.
    test_caps_nm
        The largest distance that is measured in each test crop that the label is tuned for; by
        default that of the validation crop itself.
    """
    cases = []
    for crop in crops:
        predictions = [
            [crop.prediction(source.paths, name) for name in source.parts or [label]]
            for source in sources
        ]
        predicted = all(path.is_dir() for prediction in predictions for path in prediction)
        found = crop.truth(label, voxel_size) if predicted else None
        if found is None:
            continue
        truth, grid = found
        if part := common_part(grid, chain.from_iterable(predictions)):
            own = DistanceScale.of(grid.shape, grid.voxel_size)
            size = grid.voxel_size if voxel_size is None else tuple(voxel_size)
            of_tests = [DistanceScale(cap_nm, size) for cap_nm in test_caps_nm] or [own]
            probabilities = Probabilities(label, part, predictions)
            cases.append(ValidationCase(crop.name, truth, probabilities, own, of_tests))
    return cases
