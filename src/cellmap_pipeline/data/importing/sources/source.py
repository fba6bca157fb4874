"""A volume in any format that can be imported, read in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.geometry import Shape
from cellmap_pipeline.io.files import reading

# Voxel size that a file states, nm, z, y, x; None along axes for which it states none.
StatedSize = tuple[float | None, float | None, float | None]
NOT_STATED: StatedSize = (None, None, None)

# More voxels than any volume of electron microscopy has: 16 TB of 8 bits.
MAX_VOLUME_VOXELS = 2**44
# A section, or a chunk, is decoded whole.
MAX_DECODED_BYTES = 2**31


class VolumeSource(Protocol):
    """A volume to import.

    Attributes
    ----------
    name
        The file, folder or array, for messages.
    shape
        Number of voxels, z, y, x.
    dtype
        Type of the voxels, in native byte order.
    chunks
        Number of voxels, z, y, x, that are decoded at once.
    stated_size
        The voxel size that its metadata state.
    """

    name: str
    shape: Shape
    dtype: np.dtype
    chunks: Shape
    stated_size: StatedSize

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray:
        """Read the voxels of a box.

        Raises
        ------
        InputError
            The file is broken.
        """

    def close(self) -> None:
        """Close the file."""


@contextmanager
def decoding(name: object) -> Iterator[None]:
    """Name the file or array of which the block reads content that its decoder refuses.

    Raises
    ------
    InputError
        The content is broken.
    UnavailableError
        The file cannot be read now.
    """
    try:
        with reading(str(name)):
            yield
    except (InputError, UnavailableError):
        raise
    # Decoders raise all kinds of errors for broken content: their own, struct's, zlib's, KeyError…
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{name} cannot be decoded ({reason}): it is incomplete or broken; copy or export it "
            "again"
        ) from error


def check_size(name: object, shape: Sequence[int]) -> None:
    """Refuse a volume of an impossible size.

    Raises
    ------
    InputError
        It has no voxels, or more than any volume has.
    """
    if min(shape) < 1 or np.prod([float(n) for n in shape]) > MAX_VOLUME_VOXELS:
        raise InputError(
            f"{name} has a shape of {list(shape)} by its header, which no volume has: export it "
            "again"
        )


def check_decoded_bytes(name: object, size: int) -> None:
    """Refuse a section or a chunk that is too large to be decoded.

    Raises
    ------
    InputError
        It has more than `MAX_DECODED_BYTES`.
    """
    if size > MAX_DECODED_BYTES:
        raise InputError(
            f"{name} takes {size:,} bytes to decode at once by its header, but at most "
            f"{MAX_DECODED_BYTES:,} are: if that is its size, convert it to HDF5 or N5 in chunks"
        )


def box_slices(start: Sequence[int], stop: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of a box."""
    return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))


def must_be_file(path: Path) -> None:
    """Refuse a path that is no regular file: a device or a pipe has no end.

    Raises
    ------
    InputError
        It is none.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file: give the path of a volume or of a folder of sections")
