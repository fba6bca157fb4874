"""Opening a volume of any format."""

from __future__ import annotations

from pathlib import Path

from cellmap_pipeline.data.importing.sources.hdf5 import Hdf5Array
from cellmap_pipeline.data.importing.sources.mrc import MRC_SUFFIXES, MrcFile
from cellmap_pipeline.data.importing.sources.sections import SectionFolder
from cellmap_pipeline.data.importing.sources.source import VolumeSource, must_be_file
from cellmap_pipeline.data.importing.sources.stored_array import StoredArray, is_store
from cellmap_pipeline.data.importing.sources.tiff_stack import TiffStack
from cellmap_pipeline.errors import InputError

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")


def open_source(path: Path, array: str | None = None, fill_gaps: bool = False) -> VolumeSource:
    """Open a volume to import.

    Parameters
    ----------
    path
        A folder of TIFF or PNG sections; a TIFF, HDF5 or MRC file; or an N5 or zarr container or
        array.
    array
        Path of the array in an HDF5 file or a container.
    fill_gaps
        Of sections, repeat the one before where numbers are missing.

    Raises
    ------
    InputError
        The volume is of another kind, missing or broken.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist (looked in {Path.cwd()}): correct the path")
    suffix = path.suffix.lower()
    is_sections = path.is_dir() and not is_store(path)
    if fill_gaps and not is_sections:
        raise InputError(f"{path} is no folder of sections: leave --fill-gaps out")
    if path.is_dir() and not is_sections:
        return StoredArray(path, array)
    if suffix in HDF5_SUFFIXES:
        return Hdf5Array(path, array)
    if array:
        raise InputError(f"{path} holds no arrays with names: leave --array out")
    if is_sections:
        return SectionFolder(path, fill_gaps)
    must_be_file(path)
    if suffix in TIFF_SUFFIXES:
        return TiffStack(path)
    if suffix in MRC_SUFFIXES:
        return MrcFile(path)
    raise InputError(
        f"{path} is of no format that can be imported: give a folder of TIFF or PNG sections, an "
        f"N5 or zarr array, or a file with one of the suffixes "
        f"{', '.join((*TIFF_SUFFIXES, *HDF5_SUFFIXES, *MRC_SUFFIXES))}"
    )
