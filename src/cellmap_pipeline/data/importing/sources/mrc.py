"""An MRC file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.data.importing.sources.source import (
    NOT_STATED,
    StatedSize,
    box_slices,
    check_size,
    decoding,
    must_be_file,
)
from cellmap_pipeline.errors import InputError

MRC_SUFFIXES = (".mrc", ".rec", ".map", ".st", ".ali", ".mrcs")
NM_PER_ANGSTROM = 0.1
# IMOD's words of the header, at these bytes: its stamp, and flags of which the first says that
# bytes are signed (https://bio3d.colorado.edu/imod/doc/mrc_format.txt).
STAMP_BYTE, FLAGS_BYTE, IMOD_STAMP, SIGNED_FLAG = 152, 156, 1146047817, 1


class MrcFile:
    """A volume in an MRC file; see `VolumeSource`.

    Raises
    ------
    InputError
        The file is broken, or its axes are in another order.
    """

    def __init__(self, path: Path) -> None:
        must_be_file(path)
        self.name = str(path)
        with decoding(path):
            self.file = mrcfile.mmap(path, mode="r")
            header = self.file.header
            axes = [int(header[name]) for name in ("maps", "mapr", "mapc")]
            voxels = np.asarray(self.file.data)
            stated = [float(self.file.voxel_size[axis]) for axis in "zyx"]
            as_bytes = header.tobytes()
        if axes not in ([3, 2, 1], [0, 0, 0]):
            raise InputError(
                f"{path} has its axes in the order {axes} (sections, rows, columns; 1 is x), but "
                "must have z, y, x: reorder it"
            )
        if voxels.dtype == np.int8 and _has_unsigned_bytes(as_bytes, header.nx.dtype):
            voxels = voxels.view(np.uint8)
        self.voxels = voxels if voxels.ndim != 2 else voxels[None]
        if self.voxels.ndim != 3 or self.voxels.dtype.kind not in "iuf":
            raise InputError(
                f"{path} holds {list(voxels.shape)} {voxels.dtype}, but must be one volume of real "
                "numbers"
            )
        z, y, x = self.voxels.shape
        self.shape = (z, y, x)
        check_size(path, self.shape)
        self.dtype = self.voxels.dtype.newbyteorder("=")
        self.chunks = (1, 1, x)
        self.stated_size = _stated_size(stated)

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray:
        """Read the voxels of a box."""
        with decoding(self.name):
            return self.voxels[box_slices(start, stop)].astype(self.dtype)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _has_unsigned_bytes(header: bytes, integer: np.dtype) -> bool:
    """Whether IMOD wrote the file with unsigned bytes, which MRC itself has not."""
    stamp, flags = (
        int(np.frombuffer(header, integer, 1, place)[0]) for place in (STAMP_BYTE, FLAGS_BYTE)
    )
    return stamp == IMOD_STAMP and not flags & SIGNED_FLAG


def _stated_size(angstrom: Sequence[float]) -> StatedSize:
    """Convert a voxel size, z, y, x; 0 and 1 Å stand for none."""
    if any(size in (0.0, 1.0) for size in angstrom):
        return NOT_STATED
    z, y, x = (size * NM_PER_ANGSTROM for size in angstrom)
    return z, y, x
