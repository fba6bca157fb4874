"""Volumes of other formats, read box by box: sections, TIFF, HDF5, MRC, N5 and zarr."""
