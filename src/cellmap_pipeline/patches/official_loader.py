"""Patches read by cellmap-data, the challenge's own loader, behind the fast loader's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from cellmap_data import CellMapDataset
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Shape, shape_of
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.label_codes import encode_targets
from cellmap_pipeline.patches.targets import (
    UNKNOWN,
    fill_implied,
    forget_contradictions,
    make_targets,
)

# cellmap-data takes a translation to be the lower edge of voxel 0, and rounds down from there: a
# position that lies on an edge must be moved off it.
EDGE_OFFSET_VOXELS = 1e-3


class OfficialCropReader:
    """Reader of a crop's patches that uses cellmap-data.

    cellmap-data reads the stored level nearest to the training's voxel size, resamples raw and
    labels by the nearest voxel, and returns ids as float32, which represents ids exactly up to
    2²⁴.
    """

    def __init__(
        self,
        crop: CropData,
        channels: Sequence[str],
        implied: Mapping[str, tuple[Sequence[str], Sequence[str]]],
        atoms: Sequence[Sequence[str]] = (),
    ) -> None:
        self.crop = crop
        self.channels = list(channels)
        self.implied = implied
        self.atoms = atoms
        self._dataset = lru_cache(maxsize=4)(self._open)

    def read(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> tuple[NDArray, NDArray[np.uint16], NDArray[np.uint8]]:
        """Read a box as described in `patch.CropReader`; raw is 0 beyond the volume."""
        box = self.crop.grid.box(start, shape)
        center = {
            axis: t + (n / 2 + EDGE_OFFSET_VOXELS) * v
            for axis, t, n, v in zip("zyx", box.translation, shape, box.voxel_size, strict=True)
        }
        dataset = self._dataset(shape_of(shape))
        raw = np.nan_to_num(dataset.input_sources["raw"][center].numpy())
        ids, known = {}, {}
        for label, volume in self.crop.labels.items():
            values = dataset.target_sources[label][center].numpy()
            # cellmap-data ignores encodings: voxels annotated as unknown are like any other id.
            inside = ~np.isnan(values)
            values = np.where(inside, values, 0).astype(np.int64)
            ids[label], annotated = volume.encoding.decode(values)
            known[label] = inside & annotated
            ids[label] *= known[label]
        targets = make_targets(ids, known, self.channels, box.voxel_size)
        fill_implied(targets, self.channels, self.implied)
        codes, rows = encode_targets(targets)
        forget_contradictions(rows, self.channels, self.atoms)
        if len(rows) >= np.iinfo(np.uint16).max:
            raise InputError(
                f"{self.crop.label_folder}: its labels overlap in more than 65,534 ways in one "
                "patch: train on fewer classes at once"
            )
        # Code 0 means unknown, as for voxels that a rotation takes from outside.
        table = np.concatenate([np.full((1, len(self.channels)), UNKNOWN, np.uint8), rows])
        stored = self.crop.raw.level_for(box.voxel_size).metadata.dtype
        raw = raw.astype(stored) if stored == np.uint8 else raw / np.float32(_white_value(stored))
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


def _white_value(dtype: np.dtype) -> float:
    """Stored value of full intensity."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0
