"""Volumes that are served to a browser as OME-NGFF in zarr 2."""

import json
import shutil
from collections.abc import Mapping

import numcodecs
import numpy as np
import pytest
import tensorstore as ts
import zarr

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.report.served_volumes import ServedVolume

GRID = Grid((8, 4, 4), (100, 20, 30), (20, 33, 17))
VOXELS = np.random.default_rng(0).integers(0, 200, GRID.shape).astype(np.uint8)


class ServedFiles(Mapping):
    """The files of a served volume, as a store for zarr."""

    def __init__(self, volume):
        self.volume = volume

    def __getitem__(self, key):
        content = self.volume.read(key)
        if content is None:
            raise KeyError(key)
        return content

    def __iter__(self):
        return iter(())

    def __len__(self):
        return 0


def read(served, name="s0"):
    return zarr.open_array(zarr.storage.KVStore(ServedFiles(served)), mode="r", path=name)[:]


def serve_array(path, voxels=VOXELS, **settings):
    """Write a single zarr 2 array with its position in its attributes, and serve it."""
    array = zarr.open(
        str(path), "w", shape=voxels.shape, chunks=(7, 16, 9), dtype=voxels.dtype, **settings
    )
    array[:] = voxels
    array.attrs.update(voxel_size=GRID.voxel_size, translation=GRID.translation)
    return ServedVolume(Volume.open(path))


@pytest.mark.parametrize("separator", [".", "/"])
def test_supported_chunks_are_served_as_stored(tmp_path, separator):
    served = serve_array(tmp_path / "label", dimension_separator=separator)
    key = separator.join("021")
    assert served.read(f"s0/{key}") == (tmp_path / "label" / key).read_bytes()
    assert np.array_equal(read(served), VOXELS)


@pytest.mark.parametrize(
    "settings",
    [
        {"voxels": VOXELS.astype("<i8")},
        {"voxels": VOXELS.astype(">u2")},
        {"voxels": VOXELS > 100},
        {"voxels": VOXELS / 256},
        {"voxels": VOXELS, "compressor": numcodecs.BZ2()},
    ],
    ids=["int64", "big-endian", "bool", "float64", "bzip2"],
)
def test_unsupported_chunks_are_decoded(tmp_path, settings):
    served = serve_array(tmp_path / "label", **settings)
    assert json.loads(served.read("s0/.zarray"))["dtype"] in {"<u8", "<u2", "|u1", "<f4"}
    assert np.array_equal(read(served), settings["voxels"])


def test_n5_chunks_are_decoded(tmp_path):
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{tmp_path}/raw/"}}
    metadata = {
        "dimensions": VOXELS.shape[::-1], "blockSize": [8, 6, 5], "dataType": "uint8",
        "compression": {"type": "gzip"},
    }  # fmt: skip
    ts.open(spec | {"metadata": metadata}, create=True).result().T.write(VOXELS).result()
    file = tmp_path / "raw/attributes.json"
    transform = {"axes": ["z", "y", "x"], "scale": [8, 4, 4], "translate": [100, 20, 30]}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"transform": transform}))
    assert np.array_equal(read(ServedVolume(Volume.open(tmp_path / "raw"))), VOXELS)


def test_only_local_levels_are_listed(tmp_path):
    create(tmp_path / "raw", GRID, "uint8").write(VOXELS).result()
    file = tmp_path / "raw/.zattrs"
    attributes = json.loads(file.read_text())
    (fine,) = attributes["multiscales"][0]["datasets"]
    shutil.move(tmp_path / "raw/s0", tmp_path / "raw/s1")
    attributes["multiscales"][0]["datasets"] = [
        {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [4, 2, 2]}]},
        fine | {"path": "s1"},
    ]
    file.write_text(json.dumps(attributes))
    served = ServedVolume(Volume.open(tmp_path / "raw"))
    (listed,) = json.loads(served.read(".zattrs"))["multiscales"][0]["datasets"]
    assert listed == fine
    assert np.array_equal(read(served), VOXELS)


def test_missing_and_foreign_files_are_not_served(tmp_path):
    served = serve_array(tmp_path / "label")
    (tmp_path / "label/2.2.1").unlink()
    (tmp_path / "secret").write_text("")
    long, other_digits = f"s0/0.0.{'1' * 300}", "s0/0.0.\u0663"
    for key in (
        "s0/2.2.1", "s0/9.9.9", "s1/.zarray", "s0/../secret", "s0/", "", ".zarray", long,
        other_digits,
    ):  # fmt: skip
        assert served.read(key) is None
    assert not read(served)[14:, 32:, 9:].any()


def test_chunks_with_other_names_than_the_metadata_say_are_refused(tmp_path):
    serve_array(tmp_path / "a")
    file = tmp_path / "a/.zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dimension_separator": "/"}))
    with pytest.raises(InputError, match="has no chunk named as .zarray says"):
        ServedVolume(Volume.open(tmp_path / "a"))


def test_compressors_that_neuroglancer_lacks_are_decoded(tmp_path):
    served = serve_array(tmp_path / "a", compressor=numcodecs.LZ4())
    np.testing.assert_array_equal(read(served), VOXELS)
