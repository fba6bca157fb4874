"""Variants of zarr 2 that other tools write."""

import json

import numcodecs
import numpy as np
import pytest
import zarr

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.arrays import Level

GRID = Grid((4, 4, 4), (0, 0, 0), (20, 24, 28))
RAW = np.random.default_rng(0).integers(1, 255, GRID.shape).astype(np.uint16)
COMPRESSORS = {
    "none": None,
    "zstd with `checksum`": numcodecs.Zstd(6),
    "zstd with a checksum": numcodecs.Zstd(1, checksum=True),
    "blosc": numcodecs.Blosc("zstd", shuffle=numcodecs.Blosc.BITSHUFFLE),
    "blosc with automatic shuffling": numcodecs.Blosc("lz4", shuffle=numcodecs.Blosc.AUTOSHUFFLE),
    "gzip": numcodecs.GZip(1),
    "zlib": numcodecs.Zlib(1),
    "bz2": numcodecs.BZ2(1),
    "lz4": numcodecs.LZ4(),
    "lzma": numcodecs.LZMA(preset=0),
}
FILTERS = [numcodecs.Delta("<u2"), numcodecs.Shuffle(2)]


def write(path, **options):
    array = zarr.open(
        str(path), mode="w", shape=RAW.shape, chunks=(8, 8, 8), dtype=RAW.dtype, **options
    )
    array[:] = RAW


def change(path, **changes):
    file = path / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("compressor", COMPRESSORS.values(), ids=COMPRESSORS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_compressors_of_numcodecs_are_read(tmp_path, compressor, order):
    write(tmp_path, compressor=compressor, order=order)
    voxels = Level(tmp_path, GRID).read((1, 2, 3), (20, 24, 28))
    np.testing.assert_array_equal(voxels, RAW[1:, 2:, 3:])


@pytest.mark.parametrize("compressor", [None, numcodecs.Zstd(1), numcodecs.LZ4()])
def test_filters_are_read(tmp_path, compressor):
    write(tmp_path, compressor=compressor, filters=FILTERS)
    np.testing.assert_array_equal(
        Level(tmp_path, GRID).read((5, 0, 9), (20, 23, 28)), RAW[5:, :23, 9:]
    )


def test_missing_chunks_of_lz4_hold_the_fill_value(tmp_path):
    write(tmp_path, compressor=numcodecs.LZ4(), fill_value=7)
    (tmp_path / "0.0.0").unlink()
    voxels = Level(tmp_path, GRID).read((0, 0, 0), GRID.shape)
    assert (voxels[:8, :8, :8] == 7).all()
    np.testing.assert_array_equal(voxels[8:], RAW[8:])


def test_broken_chunks_of_lz4_are_reported(tmp_path):
    write(tmp_path, compressor=numcodecs.LZ4())
    (tmp_path / "0.0.0").write_bytes(b"\xff\xff\xff\x7f" + 20 * b"x")
    with pytest.raises(InputError, match=r"cannot read voxels .*\(its header says 2147483647 "):
        Level(tmp_path, GRID).read((0, 0, 0), (4, 4, 4))


def test_codecs_that_run_code_are_refused(tmp_path):
    write(tmp_path, compressor=numcodecs.LZ4())
    change(tmp_path, filters=[{"id": "pickle", "protocol": 4}])
    with pytest.raises(InputError, match="cannot be opened .the filter pickle is not one"):
        _ = Level(tmp_path, GRID).array


def test_unknown_members_of_the_metadata_are_ignored(tmp_path):
    write(tmp_path, compressor=numcodecs.Blosc())
    blosc = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "typesize": 2, "x": 1}
    change(tmp_path, compressor=blosc, _ARRAY_DIMENSIONS=["z", "y", "x"])
    np.testing.assert_array_equal(Level(tmp_path, GRID).read((0, 0, 0), GRID.shape), RAW)


@pytest.mark.parametrize(("written", "stated"), [("/", "."), ("/", None), (".", "/")])
def test_chunks_with_other_names_than_the_metadata_say_are_refused(tmp_path, written, stated):
    write(tmp_path, dimension_separator=written)
    change(tmp_path, dimension_separator=stated)
    if stated is None:
        file = tmp_path / ".zarray"
        metadata = json.loads(file.read_text())
        del metadata["dimension_separator"]
        file.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=r"has no chunk named as \.zarray says"):
        Level(tmp_path, GRID).read((0, 0, 0), GRID.shape)


def test_array_without_chunks_holds_its_fill_value(tmp_path):
    write(tmp_path, fill_value=7)
    for file in tmp_path.glob("*.*.*"):
        file.unlink()
    assert (Level(tmp_path, GRID).read((0, 0, 0), GRID.shape) == 7).all()
