"""A patch as it travels from a crop to the device, and the crops that patches are read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.patches.augmentation import Change
from cellmap_pipeline.patches.crops import CropData
from cellmap_pipeline.patches.targets import UNKNOWN


class Source(Protocol):
    """A crop that patches are read from: the fast loader's, or the official one's."""

    crop: CropData

    def read(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> tuple[NDArray, NDArray[np.unsignedinteger], NDArray[np.uint8]]:
        """Raw, codes and their table of a box of the crop's grid, which may reach beyond it.

        Returns
        -------
        raw
            (z, y, x) uint8, or float32 0..1.
        codes
            (z, y, x) uint8 or uint16; 0 where nothing is known.
        table
            (codes, channels) uint8, the targets of each code: 0, 1, or 255 for unknown.
        """


@dataclass
class Patch:
    """A patch as it travels: small, to be finished on the device (`Finisher`).

    Attributes
    ----------
    raw
        (z, y, x) uint8, or float32 0..1.
    codes
        (z, y, x) uint8, or int16 to be read as unsigned.
    table
        (codes, stored channels) uint8, what the codes stand for.
    change
        What is done to it.
    """

    raw: Tensor
    codes: Tensor
    table: Tensor
    change: Change

    def pin(self) -> Patch:
        """The same in memory that a GPU copies from by itself."""
        return Patch(self.raw.pin_memory(), self.codes.pin_memory(), self.table, self.change)


def read_patch(source: Source, start: Shape, shape: Shape, change: Change) -> Patch:
    raw, codes, table = source.read(start, shape)
    return Patch(
        torch.from_numpy(raw),
        torch.from_numpy(codes if codes.dtype == np.uint8 else codes.view(np.int16)),
        torch.from_numpy(table),
        change,
    )


def unknown(table: Tensor) -> Tensor:
    """A table of codes of which none says anything."""
    return torch.full_like(table, UNKNOWN)
