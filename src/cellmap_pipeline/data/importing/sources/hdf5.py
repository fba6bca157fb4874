"""An array of an HDF5 file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.data.importing.sources.source import (
    NOT_STATED,
    StatedSize,
    box_slices,
    check_decoded_bytes,
    check_size,
    decoding,
    must_be_file,
)
from cellmap_pipeline.errors import InputError, did_you_mean

# Attributes with the voxel size, z, y, x: their unit in nm, by name. `resolution` is that of the
# CREMI challenge, `element_size_um` that of ilastik and PlantSeg.
SIZE_ATTRIBUTES = {"resolution": 1.0, "element_size_um": 1e3}
MAX_LISTED = 20


class Hdf5Array:
    """A volume in an HDF5 file; see `VolumeSource`.

    Parameters
    ----------
    path
        The file.
    array
        Path of the array in the file; None if it holds only one of three axes.

    Raises
    ------
    InputError
        The file is broken, or there is no such array.
    """

    def __init__(self, path: Path, array: str | None) -> None:
        must_be_file(path)
        with decoding(path):
            self.file = h5py.File(path, "r")
            self.array = _find(path, self.file, array)
        self.name = f"{path}{self.array.name}"
        # Axes of one voxel, such as the channels of ilastik, are left out.
        self.index: list[Any] = [0 if n == 1 else slice(None) for n in self.array.shape]
        if self.array.ndim == 3:
            self.index = [slice(None)] * 3
        kept = [axis for axis, index in enumerate(self.index) if index != 0]
        if len(kept) != 3:
            raise InputError(
                f"{self.name} has the shape {list(self.array.shape)}, but must have the axes z, y, "
                "x: save one channel and one time"
            )
        z, y, x = kept
        self.shape = (self.array.shape[z], self.array.shape[y], self.array.shape[x])
        self.dtype = self.array.dtype.newbyteorder("=")
        check_size(self.name, self.shape)
        self.chunks = self._chunks(kept)
        with decoding(self.name):
            self.stated_size = _stated_size(self.array.attrs)

    def _chunks(self, kept: Sequence[int]) -> tuple[int, int, int]:
        stored = self.array.chunks
        if stored is None:
            return 1, 1, self.shape[2]
        check_decoded_bytes(f"a chunk of {self.name}", math.prod(stored) * self.dtype.itemsize)
        z, y, x = (min(stored[axis], self.array.shape[axis]) for axis in kept)
        return z, y, x

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray:
        """Read the voxels of a box."""
        slices = iter(box_slices(start, stop))
        index = tuple(0 if part == 0 else next(slices) for part in self.index)
        with decoding(self.name):
            return np.asarray(self.array[index], self.dtype)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _find(path: Path, file: h5py.File, name: str | None) -> h5py.Dataset:
    """Return the array of a name, or the only one of three or more axes."""
    found: dict[str, h5py.Dataset] = {}

    def collect(key: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 3 and item.dtype.kind in "biuf":
            found[f"/{key}"] = item

    # This follows no links, which may lead out of the file.
    file.visititems(collect)
    listed = ", ".join(list(found)[:MAX_LISTED]) or "none"
    if name is None and len(found) != 1:
        raise InputError(
            f"{path} holds {len(found)} arrays of three axes ({listed}): name one by --array"
        )
    key = next(iter(found)) if name is None else f"/{name.strip('/')}"
    if key not in found:
        raise InputError(
            f"{path} holds no array {key} of numbers with three axes{did_you_mean(key, [*found])}; "
            f"it holds {listed}"
        )
    array = found[key]
    if array.external or array.is_virtual:
        raise InputError(
            f"{path}{key} refers to voxels in other files: import those, or copy it into one file"
        )
    return array


def _stated_size(attributes: h5py.AttributeManager) -> StatedSize:
    for name, nm in SIZE_ATTRIBUTES.items():
        value = np.ravel(attributes[name]) if name in attributes else np.zeros(0)
        if value.size == 3 and value.dtype.kind in "iuf":
            z, y, x = (float(size) * nm for size in value)
            return z, y, x
    return NOT_STATED
