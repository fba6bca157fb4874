"""All formats: how the metadata of each are parsed, and the format in which results are written."""

from __future__ import annotations

from collections.abc import Callable

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.formats.array import ArrayMetadata, Format, VolumeWriter
from cellmap_pipeline.io.formats.n5 import parse_n5_array
from cellmap_pipeline.io.formats.zarr2 import Zarr2Writer, parse_zarray
from cellmap_pipeline.io.formats.zarr3 import attributes_of, parse_zarr_json
from cellmap_pipeline.io.storage import Metadata

# Parsers of an array's metadata file.
PARSERS: dict[Format, Callable[[Metadata], ArrayMetadata]] = {
    "zarr": parse_zarray,
    "zarr3": parse_zarr_json,
    "n5": parse_n5_array,
}
# Parsers of the attributes in a file, where these are not its whole content.
ATTRIBUTE_PARSERS: dict[Format, Callable[[Metadata], Metadata]] = {"zarr3": attributes_of}
WRITERS: dict[Format, VolumeWriter] = {"zarr": Zarr2Writer()}
# Predictions and labels are written in this format.
OUTPUT_FORMAT: Format = "zarr"


def parse_array(stored: Metadata, stored_as: Format) -> ArrayMetadata:
    """Parse the content of an array's metadata file.

    Raises
    ------
    ValueError
        It does not describe an array.
    """
    return PARSERS[stored_as](stored)


def parse_attributes(stored: Metadata, stored_as: Format, file: object) -> Metadata:
    """Return the attributes in the content of a file that holds those of an array or a group.

    Raises
    ------
    InputError
        The content of `file` has no attributes by name.
    """
    if stored_as not in ATTRIBUTE_PARSERS:
        return stored
    try:
        return ATTRIBUTE_PARSERS[stored_as](stored)
    except ValueError as error:
        raise InputError(f"{file}: {error}: copy or fetch it again") from None
