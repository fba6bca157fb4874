"""Metadata formats of volumes: OME-NGFF, zarr 2, zarr 3 and n5."""
