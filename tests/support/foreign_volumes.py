"""Volumes in the formats that can be imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import imageio.v3 as iio
import mrcfile
import tensorstore as ts
import tifffile
import zarr
from numpy.typing import NDArray


def write_sections(folder: Path, voxels: NDArray, suffix: str = ".tif", first: int = 8) -> Path:
    """Write sections whose order by number is not that of their names."""
    folder.mkdir()
    for number, section in enumerate(voxels, first):
        path = folder / f"cell_z{number}{suffix}"
        if suffix == ".png":
            iio.imwrite(path, section)
        else:
            tifffile.imwrite(path, section, compression="zlib")
    return folder


def write_tiff(path: Path, voxels: NDArray, **options: object) -> Path:
    tifffile.imwrite(path, voxels, photometric="minisblack", **options)
    return path


def write_hdf5(path: Path, voxels: NDArray, **attributes: object) -> Path:
    with h5py.File(path, "w") as file:
        array = file.create_dataset("volumes/raw", data=voxels, chunks=True, compression="gzip")
        array.attrs.update(attributes)
        file["voxels_per_axis"] = voxels.shape
    return path


def write_mrc(path: Path, voxels: NDArray, angstrom: float = 0) -> Path:
    with mrcfile.new(path) as file:
        file.set_data(voxels)
        file.set_volume()
        file.voxel_size = angstrom
    return path


def write_n5(path: Path, voxels: NDArray) -> Path:
    """Write an N5 array, which is x, y, z, in a container."""
    spec = {
        "driver": "n5",
        "kvstore": {"driver": "file", "path": f"{path}/volumes/raw/"},
        "metadata": {
            "dimensions": voxels.shape[::-1],
            "blockSize": [20, 30, 40],
            "dataType": voxels.dtype.name,
            "compression": {"type": "gzip"},
        },
    }
    ts.open(spec, create=True).result().write(voxels.T).result()
    (path / "attributes.json").write_text('{"n5": "2.0.0"}')
    return path


def write_zarr(path: Path, voxels: NDArray) -> Path:
    group = zarr.open_group(str(path), mode="w")
    group.create_dataset("volumes/raw", data=voxels, chunks=(1,) * (voxels.ndim - 3) + (30, 20, 40))
    return path


# Writers of a volume at a path, by its format; and the path of its array, if it has one.
FORMATS: dict[str, tuple[Callable[[Path, NDArray], Path], str | None]] = {
    "TIFF sections": (write_sections, None),
    "PNG sections": (lambda path, voxels: write_sections(path, voxels, ".png"), None),
    "TIFF stack": (lambda path, voxels: write_tiff(path.with_suffix(".tif"), voxels), None),
    "compressed TIFF stack": (
        lambda path, voxels: write_tiff(path.with_suffix(".tiff"), voxels, compression="zlib"),
        None,
    ),
    "big-endian TIFF stack": (
        lambda path, voxels: write_tiff(path.with_suffix(".tif"), voxels, byteorder=">"),
        None,
    ),
    "HDF5": (lambda path, voxels: write_hdf5(path.with_suffix(".h5"), voxels), "volumes/raw"),
    "MRC": (lambda path, voxels: write_mrc(path.with_suffix(".mrc"), voxels), None),
    "N5": (lambda path, voxels: write_n5(path.with_suffix(".n5"), voxels), "volumes/raw"),
    "zarr": (lambda path, voxels: write_zarr(path.with_suffix(".zarr"), voxels), "/volumes/raw"),
}
