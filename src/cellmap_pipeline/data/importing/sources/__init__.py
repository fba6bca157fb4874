"""Volumes of other formats, read in parts: sections, TIFF, HDF5, MRC, N5 and zarr."""
