"""Held-out crops of the training data, which validate trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellmap_pipeline.data.datasplit_csv import container_of, crop_number
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.levels import nearest_level
from cellmap_pipeline.io.storage import Location, volumes_in


@dataclass(frozen=True)
class ValidationCrop:
    """A crop that validates trainings.

    Attributes
    ----------
    dataset
        Name of its dataset.
    number
        Number of the crop.
    folder
        Folder of its labels.
    left_out
        Classes that the datasplit excludes, although they may be annotated.
    """

    dataset: str
    number: int
    folder: Location
    left_out: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folder: Location, left_out: frozenset[str] = frozenset()) -> ValidationCrop:
        """Return the crop whose labels are in `folder`, usually `{dataset}.zarr/…/crop{number}`."""
        dataset = Path(container_of(folder).name).stem
        return cls(dataset, crop_number(folder), folder, left_out)

    @property
    def name(self) -> str:
        """Name in figures, logs and errors."""
        return f"{self.dataset}/crop{self.number}"

    def prediction(self, paths: Sequence[str], label: str) -> Path:
        """Return the path of a label's prediction, given path templates of which one has the crop.

        A template has the fields {dataset}, {crop} and {label}. If no path exists, the last one is
        returned.
        """
        found = [
            Path(path.format(dataset=self.dataset, crop=self.number, label=label)) for path in paths
        ]
        return next((path for path in found if path.is_dir()), found[-1])

    def truth(
        self, label: str, voxel_size: Sequence[float] | None
    ) -> tuple[LabelVolume, Grid] | None:
        """Open a label and return it with its grid at the voxel size nearest to `voxel_size`.

        `voxel_size` is in nm; None means the finest. The result is None if the label is not
        annotated.
        """
        if label in self.left_out or not volumes_in(self.folder, [label]):
            return None
        volume = LabelVolume.open(self.folder / label)
        grids = [level.grid for level in volume.volume.levels]
        if voxel_size is None:
            return volume, grids[0]
        return volume, grids[nearest_level([grid.voxel_size for grid in grids], voxel_size)]
