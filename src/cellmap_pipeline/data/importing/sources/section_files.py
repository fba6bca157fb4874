"""Sections in files of their own: TIFF and PNG, grayscale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellmap_pipeline.data.importing.sources.source import (
    NOT_STATED,
    StatedSize,
    check_decoded_bytes,
    decoding,
    must_be_file,
)
from cellmap_pipeline.data.importing.sources.tiff_pages import (
    check_black,
    check_complete,
    open_tiff,
    read_page,
    stated_voxel_size,
)
from cellmap_pipeline.errors import InputError

SECTION_SUFFIXES = (".tif", ".tiff", ".png")
# Deflate, by which PNG is compressed, shrinks data by up to this factor.
MAX_DEFLATE_RATIO = 1100


class SectionHeader(NamedTuple):
    """Rows and columns of a section, the type of its pixels, and what it states of their size."""

    rows: int
    columns: int
    dtype: np.dtype
    stated_size: StatedSize

    def __str__(self) -> str:
        return f"{self.rows} × {self.columns} {self.dtype}"

    @property
    def size(self) -> int:
        """Number of bytes of the pixels."""
        return self.rows * self.columns * self.dtype.itemsize


def read_header(path: Path) -> SectionHeader:
    """Read the header of a section, without its pixels.

    Raises
    ------
    InputError
        The file is broken, is not grayscale, or holds several images.
    """
    must_be_file(path)
    with decoding(path):
        header = _png_header(path) if path.suffix.lower() == ".png" else _tiff_header(path)
    check_decoded_bytes(path, header.size)
    return header


def read_section(path: Path) -> NDArray:
    """Read the pixels of a section, (rows, columns).

    Raises
    ------
    InputError
        The file is broken.
    """
    with decoding(path):
        if path.suffix.lower() == ".png":
            with _any_size():
                return np.asarray(iio.imread(path, plugin="pillow"))
        with open_tiff(path) as file, file:
            return read_page(path, file.pages.first)


def _png_header(path: Path) -> SectionHeader:
    with _any_size():
        properties = iio.improps(path, plugin="pillow")
    header = SectionHeader(*_two_axes(path, properties.shape), properties.dtype, NOT_STATED)
    if header.size > MAX_DEFLATE_RATIO * path.stat().st_size:
        raise InputError(
            f"{path} has {header} pixels by its header, more than its {path.stat().st_size:,} "
            "bytes can hold: copy or export it again"
        )
    return header


def _tiff_header(path: Path) -> SectionHeader:
    with open_tiff(path) as file, file:
        if len(file.pages) > 1:
            raise InputError(
                f"{path} holds {len(file.pages)} images: a folder of sections has one section per "
                "file; import a stack by the path of its file"
            )
        page = file.pages.first
        rows, columns = _two_axes(path, page.shape)
        check_complete(path, page)
        check_black(path, page)
        return SectionHeader(rows, columns, np.dtype(page.dtype), stated_voxel_size(file))


def _two_axes(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise InputError(
            f"{path} is not grayscale, but has the shape {list(shape)}: save it with one channel"
        )
    return shape[0], shape[1]


@contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's own limit, which sections exceed; `check_decoded_bytes` has another."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
