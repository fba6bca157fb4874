"""Drawn errors in chunks and metadata of volumes: the outcome is a result or a message."""

import json
import tempfile
import warnings
from pathlib import Path

import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.formats.chunk_codecs import ChunkDecoder, ChunkError
from cellmap_pipeline.io.formats.ngff import multiscale_metadata
from cellmap_pipeline.io.formats.zarr2 import parse_zarray
from cellmap_pipeline.io.volumes import Volume
from tests.support.fuzz import bounded, edited, edits, fuzzed, nested
from tests.support.hostile import GRID, ZARRAY

VOXELS = np.random.default_rng(0).integers(0, 9, (8, 8, 8)).astype("<u2")
COMPRESSORS = [
    None, numcodecs.Blosc("lz4"), numcodecs.Blosc("zstd", shuffle=2), numcodecs.Blosc("zlib"),
    numcodecs.Zstd(), numcodecs.Zstd(1, checksum=True), numcodecs.LZ4(), numcodecs.GZip(1),
    numcodecs.Zlib(1), numcodecs.BZ2(1), numcodecs.LZMA(preset=0),
    numcodecs.LZMA(format=3, filters=[{"id": 33, "preset": 0}]),
]  # fmt: skip
FILTERS = [
    [], [numcodecs.Delta("<u2")], [numcodecs.Shuffle(2)], [numcodecs.CRC32()],
    [numcodecs.AsType("<f4", "<u2"), numcodecs.Quantize(2, "<f4")], [numcodecs.Fletcher32()],
    [numcodecs.FixedScaleOffset(1, 1, "<u2", "<u4"), numcodecs.Delta("<u4")],
]  # fmt: skip
# Zlib's, lz4's and Blosc's decoders stop at headers that ours reads no further.
STRICTER = ("blosc", "lz4", "zstd")


@fuzzed
@given(
    compressor=st.sampled_from(COMPRESSORS),
    filters=st.sampled_from(FILTERS),
    changes=edits,
    cut=st.sampled_from([0, 0, 0, 1, 2, 8, 40]),
    behind=st.sampled_from([b"", b"\0", b"\0" * 9, b"x", "again"]),
)
def test_fuzz_chunks(compressor, filters, changes, cut, behind) -> None:
    data = VOXELS
    for codec in filters:
        data = codec.encode(data)
    raw = bytes(compressor.encode(data)) if compressor else np.asarray(data).tobytes()
    raw = edited(raw, changes, cut)
    raw += raw if behind == "again" else behind
    stored = ZARRAY | {
        "dtype": "<u2",
        "compressor": compressor and compressor.get_config(),
        "filters": [codec.get_config() for codec in filters],
    }
    decoder = ChunkDecoder.of(parse_zarray(stored))
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ours = decoder.decode(raw)
        except ChunkError:
            ours = None
    if compressor and compressor.codec_id in STRICTER and ours is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = compressor.decode(raw) if compressor else raw
            for codec in reversed(filters):
                theirs = codec.decode(theirs)
            theirs = np.frombuffer(np.ascontiguousarray(theirs), "<u2").reshape(8, 8, 8)
        except Exception:
            theirs = None
    assert (ours is None) == (theirs is None)
    if ours is not None:
        np.testing.assert_array_equal(ours, theirs)


MULTISCALES = {"multiscales": [multiscale_metadata("x", [GRID])]}
ZARR_JSON = {
    "zarr_format": 3, "node_type": "array", "shape": [16] * 3, "data_type": "uint8",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8] * 3}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0,
    "codecs": [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [4] * 3,
                "codecs": [{"name": "bytes"}],
                "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            },
        }
    ],
}  # fmt: skip
N5_GROUP = {"scales": [[1, 1, 1]], "pixelResolution": {"dimensions": [4, 4, 4], "unit": "nm"}}
N5_ARRAY = {
    "dimensions": [16] * 3, "blockSize": [8] * 3, "dataType": "uint8",
    "compression": {"type": "gzip"}, "pixelResolution": [4, 4, 4],
    "transform": {
        "axes": ["z", "y", "x"], "units": ["nm"] * 3, "scale": [4] * 3, "translate": [0] * 3,
    },
}  # fmt: skip
VOLUMES = [
    {".zattrs": MULTISCALES, "s0/.zarray": ZARRAY},
    {"zarr.json": {"attributes": {"ome": MULTISCALES}}, "s0/zarr.json": ZARR_JSON},
    {"attributes.json": N5_GROUP, "s0/attributes.json": N5_ARRAY},
    {"attributes.json": N5_ARRAY},
]


@pytest.mark.parametrize("files", VOLUMES, ids=["zarr", "zarr3", "n5", "n5 array"])
def test_volumes_without_errors_are_read(files: dict, tmp_path: Path) -> None:
    assert read(tmp_path, files).shape == (8, 8, 8)


def read(folder: Path, files: dict) -> np.ndarray:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    level = Volume.open(folder).levels[0]
    return level.read((0, 0, 0), [min(8, n) for n in level.grid.shape])


@fuzzed
@given(data=st.data(), files=st.sampled_from(VOLUMES))
def test_fuzz_metadata_of_volumes(data: st.DataObject, files: dict) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    changed = files | {name: data.draw(nested(files[name]))}
    with tempfile.TemporaryDirectory() as folder, bounded():
        try:
            read(Path(folder), changed)
        except InputError as error:
            assert folder in str(error)
