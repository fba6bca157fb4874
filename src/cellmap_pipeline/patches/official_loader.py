"""Patches read by cellmap-data, the challenge's own loader, behind the fast loader's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from cellmap_data import CellMapDataset
from numpy.typing import NDArray

from cellmap_pipeline.geometry import Shape, shape_of
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.label_codes import encode
from cellmap_pipeline.patches.targets import UNKNOWN, imply, make_targets

# It takes a volume's translation for the lower edge of voxel 0 and rounds down from there.
BEYOND_THE_EDGE = 1e-3


class OfficialSource:
    """A crop that cellmap-data reads.

    It takes the stored level nearest to the training's voxel size, resamples raw and labels by
    the nearest voxel, and gives ids as float32, which tells ids apart up to 2²⁴.
    """

    def __init__(
        self,
        crop: CropData,
        channels: Sequence[str],
        implied: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    ) -> None:
        self.crop = crop
        self.channels = list(channels)
        self.implied = implied
        self._dataset = lru_cache(maxsize=4)(self._open)

    def read(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> tuple[NDArray, NDArray[np.uint16], NDArray[np.uint8]]:
        """See `patches.Source`; raw is 0 beyond the volume."""
        box = self.crop.grid.box(start, shape)
        centre = {
            axis: t + (n / 2 + BEYOND_THE_EDGE) * v
            for axis, t, n, v in zip("zyx", box.translation, shape, box.voxel_size, strict=True)
        }
        dataset = self._dataset(shape_of(shape))
        raw = np.nan_to_num(dataset.input_sources["raw"][centre].numpy())
        ids, known = {}, {}
        for label, volume in self.crop.labels.items():
            values = dataset.target_sources[label][centre].numpy()
            # It takes voxels that are annotated as unknown for present.
            known[label] = ~np.isnan(values) & (values != volume.unknown)
            ids[label] = np.where(known[label], values, 0).astype(np.int64)
        targets = make_targets(ids, known, self.channels, box.voxel_size)
        imply(targets, self.channels, self.implied)
        codes, rows = encode(targets)
        # Code 0 stands for nothing known, as what a rotation brings in from outside.
        table = np.concatenate([np.full((1, len(self.channels)), UNKNOWN, np.uint8), rows])
        stored = np.dtype(self.crop.raw.level_for(box.voxel_size).metadata["dtype"])
        raw = raw.astype(stored) if stored == np.uint8 else raw / np.float32(_white(stored))
        return raw, (codes + 1).astype(np.uint16), table

    def _open(self, shape: Shape) -> CellMapDataset:
        arrays = {"shape": shape, "scale": self.crop.voxel_size}
        classes = list(self.crop.labels)
        return CellMapDataset(
            raw_path=str(self.crop.raw_path),
            target_path=f"{self.crop.label_folder}/[{','.join(classes)}]",
            classes=classes,
            input_arrays={"raw": arrays},
            target_arrays={"labels": arrays},
            pad=True,
        )


def _white(dtype: np.dtype) -> float:
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0
