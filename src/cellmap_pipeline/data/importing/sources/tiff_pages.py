"""Pages of TIFF files, and the voxel size in the metadata of ImageJ."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tifffile import PHOTOMETRIC, TiffFile, TiffFrame, TiffPage

from cellmap_pipeline.data.importing.sources.source import NOT_STATED, StatedSize
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.formats.group_models import NANOMETERS

# ImageJ's names of units that `NANOMETERS` has not.
IMAGEJ_UNITS = {"micron": "um", "microns": "um", "\\u00B5m": "um", "inch": "", "pixel": ""}


class _ErrorMessages(logging.Handler):
    """Collects the messages of errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def open_tiff(path: Path) -> Iterator[TiffFile]:
    """Open a TIFF file, and leave it open if the block succeeds.

    Raises
    ------
    InputError
        Its pages are broken. Tifffile only logs that, and takes those before for all.
    """
    logger, errors = logging.getLogger("tifffile"), _ErrorMessages()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(errors)
    try:
        with ExitStack() as stack:
            yield stack.enter_context(TiffFile(path))
            if errors.messages:
                raise ValueError(errors.messages[0])
            stack.pop_all()
    finally:
        logger.removeHandler(errors)
        logger.propagate = propagated


def read_page(path: Path, page: TiffPage | TiffFrame) -> NDArray:
    """Read the pixels of a page, (rows, columns).

    Raises
    ------
    InputError
        Part of it is missing, or its compression takes a package that is not installed.
    """
    check_complete(path, page)
    try:
        return np.asarray(page.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        name = getattr(page.compression, "name", page.compression)
        raise InputError(
            f"{path} is compressed by {name}, which takes the package imagecodecs: pip install "
            "imagecodecs, or save it without compression"
        ) from None


def check_complete(path: Path, page: TiffPage | TiffFrame) -> None:
    """Refuse a page of which strips or tiles lie beyond the end of the file.

    Raises
    ------
    InputError
        The file is shorter than its header says.
    """
    size = path.stat().st_size
    ends = [a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if not ends or max(ends) > size or not all(page.databytecounts):
        raise InputError(
            f"{path} is incomplete: it has {size:,} bytes, but pixels of page {page.index + 1} of "
            "it are missing: copy or export it again"
        )


def check_black(path: Path, page: TiffPage) -> None:
    """Refuse a page whose 0 is white: its values are read as they are stored.

    Raises
    ------
    InputError
        It is such a page.
    """
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        raise InputError(f"{path} stores white as 0 (MinIsWhite): save it with black as 0")


def stated_voxel_size(file: TiffFile) -> StatedSize:
    """Return the voxel size that ImageJ wrote to a file."""
    metadata = file.imagej_metadata
    if not metadata:
        return NOT_STATED
    unit = str(metadata.get("unit", ""))
    nm = NANOMETERS.get(IMAGEJ_UNITS.get(unit, unit))
    if nm is None:
        return NOT_STATED
    tags = file.pages.first.tags
    spacing = metadata.get("spacing")
    return (
        float(spacing) * nm if spacing else None,
        _pixel_size(tags.valueof("YResolution"), nm),
        _pixel_size(tags.valueof("XResolution"), nm),
    )


def _pixel_size(resolution: tuple[int, int] | None, nm: float) -> float | None:
    """Convert a number of pixels per unit, a fraction, to nm."""
    if not resolution or 0 in resolution:
        return None
    pixels, units = resolution
    return nm * units / pixels
