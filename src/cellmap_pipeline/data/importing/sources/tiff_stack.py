"""A TIFF file whose pages are the sections of a volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from cellmap_pipeline.data.importing.sources.source import (
    box_slices,
    check_decoded_bytes,
    check_size,
    decoding,
)
from cellmap_pipeline.data.importing.sources.tiff_pages import (
    check_black,
    check_complete,
    open_tiff,
    read_page,
    stated_voxel_size,
)
from cellmap_pipeline.errors import InputError

# Axes that pages may count: z, a sequence, time, or one that is not named.
SECTION_AXES = "ZITQ"


class TiffStack:
    """A volume in one TIFF file; see `VolumeSource`.

    Raises
    ------
    InputError
        The file is broken, or holds something other than one stack of grayscale sections.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path = path
        with decoding(path), open_tiff(path) as self.file:
            self.series = series = _only_series(path, self.file)
            shape = series.shape if len(series.shape) == 3 else (1, *series.shape)
            self.shape = (shape[0], shape[1], shape[2])
            self.dtype = np.dtype(series.dtype)
            self.stated_size = stated_voxel_size(self.file)
        check_size(path, self.shape)
        self.voxels = self._mapped()
        if self.voxels is None:
            section = math.prod(self.shape[1:]) * self.dtype.itemsize
            check_decoded_bytes(f"a section of {path}", section)
            self.chunks = (1, *self.shape[1:])
            with decoding(path):
                check_complete(path, self._page(self.shape[0] - 1))

    def _page(self, number: int) -> TiffPage | TiffFrame:
        page = self.series.pages[number]
        if page is None or page.parent is not self.file:
            raise InputError(
                f"{self.path} lacks section {number + 1}, which its metadata mention: is it in "
                "another file? Save all as one file"
            )
        return page

    def _mapped(self) -> NDArray | None:
        """Map the voxels into memory, if they lie in the file one after another."""
        start = self.series.dataoffset
        if start is None:
            return None
        self.chunks = (1, 1, self.shape[2])
        stored = self.dtype.newbyteorder(self.file.byteorder)
        with decoding(self.path):
            return np.memmap(self.path, stored, "r", start, self.shape)

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray:
        """Read the voxels of a box; whole sections are decoded where they are compressed."""
        with decoding(self.path):
            if self.voxels is not None:
                return self.voxels[box_slices(start, stop)].astype(self.dtype)
            rows, columns = slice(start[1], stop[1]), slice(start[2], stop[2])
            pages = range(start[0], stop[0])
            return np.stack(
                [read_page(self.path, self._page(page))[rows, columns] for page in pages]
            )

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _only_series(path: Path, file: TiffFile) -> TiffPageSeries:
    """Return the only series of pages of a file, with the axes z, y, x or y, x."""
    found = file.series
    if len(found) != 1:
        shapes = " and ".join(str(list(series.shape)) for series in found[:4])
        raise InputError(
            f"{path} holds {len(found)} images of different shapes or types ({shapes}): save its "
            "sections with the same size and type"
        )
    (series,) = found
    axes = series.axes
    is_stack = axes == "YX" or (len(axes) == 3 and axes[0] in SECTION_AXES and axes[1:] == "YX")
    if not is_stack:
        raise InputError(
            f"{path} has the axes {axes} of the lengths {list(series.shape)}, but must be a stack "
            "of grayscale sections: save one channel and one time"
        )
    check_black(path, series.keyframe)
    return series
