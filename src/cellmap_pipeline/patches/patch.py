"""A training patch on its way from a crop to the device, and the interface of its readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.patches.augmentation.transform import PatchTransform
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.normalization import BY_RANGE, Normalization
from cellmap_pipeline.patches.targets import UNKNOWN


class CropReader(Protocol):
    """Reader of one crop's patches, by the fast loader or by the official one."""

    crop: CropData

    def read(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> tuple[NDArray, NDArray[np.unsignedinteger], NDArray[np.uint8]]:
        """Read raw and target codes of a box of the crop's grid; it may extend beyond the crop.

        Returns
        -------
        raw
            (z, y, x) uint8, or float32 in 0..1.
        codes
            (z, y, x) uint8 or uint16; 0 where nothing is known.
        table
            (codes, stored channels) uint8, the targets of each code: 0, 1, or 255 for unknown.
            Distances and id digits have other values, too (`targets.make_targets`).
        """


@dataclass
class Patch:
    """A compact patch, to be transformed and decoded on the device (`BatchBuilder`).

    Attributes
    ----------
    raw
        (z, y, x) uint8, or float32 in 0..1.
    codes
        (z, y, x) uint8, or int16 that holds the bits of uint16.
    table
        (codes, stored channels) uint8, the targets of each code.
    transform
        The augmentation to apply.
    normalization
        Normalization of the volume that it was read from.
    """

    raw: Tensor
    codes: Tensor
    table: Tensor
    transform: PatchTransform
    normalization: Normalization = BY_RANGE

    def pin(self) -> Patch:
        """Copy to pinned memory, from which transfers to the GPU are asynchronous."""
        return replace(self, raw=self.raw.pin_memory(), codes=self.codes.pin_memory())


def read_patch(reader: CropReader, start: Shape, shape: Shape, transform: PatchTransform) -> Patch:
    """Read the patch at `start`, to be transformed later."""
    raw, codes, table = reader.read(start, shape)
    return Patch(
        torch.from_numpy(raw),
        torch.from_numpy(codes if codes.dtype == np.uint8 else codes.view(np.int16)),
        torch.from_numpy(table),
        transform,
        reader.crop.normalization,
    )


def all_unknown(table: Tensor) -> Tensor:
    """Return a table of the same shape whose codes all mean unknown."""
    return torch.full_like(table, UNKNOWN)
