"""A crop of the training data that validates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellmap_pipeline.geometry import Grid, Vector, apart
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.storage import Location, volumes_in


@dataclass(frozen=True)
class ValidationCrop:
    """A crop that validates, the folder of its labels, and those that its datasplit leaves out."""

    dataset: str
    number: int
    folder: Location
    left_out: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folder: Location, left_out: frozenset[str] = frozenset()) -> ValidationCrop:
        """The crop whose labels lie in `…/{dataset}.zarr/…/crop{number}`."""
        dataset = next(p.removesuffix(".zarr") for p in folder.parts if p.endswith(".zarr"))
        return cls(dataset, int(folder.name.removeprefix("crop")), folder, left_out)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.dataset}/crop{self.number}"

    def prediction(self, path: str, label: str) -> Path:
        """Where a label is predicted, by a path with {dataset}, {crop} and {label}."""
        return Path(path.format(dataset=self.dataset, crop=self.number, label=label))

    def truth(self, label: str, voxel_size: Vector | None) -> tuple[LabelVolume, Grid] | None:
        """A label and its grid at the resolution nearest to `voxel_size` (nm), or the finest for
        None; None where the label is not annotated.
        """
        if label in self.left_out or not volumes_in(self.folder, [label]):
            return None
        volume = LabelVolume.open(self.folder / label)
        grids = [level.grid for level in volume.volume.levels]
        if voxel_size is None:
            return volume, grids[0]
        return volume, min(grids, key=lambda grid: apart(grid.voxel_size, voxel_size))
