"""Volumes of OME-NGFF 0.5 in zarr 3."""

import json

import numpy as np
import pytest
import tensorstore as ts

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.formats.ngff import multiscale_metadata
from cellmap_pipeline.io.formats.zarr3 import parse_zarr_json
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume, create
from cellmap_pipeline.preflight.chunks import ChunkRequest, decode_chunks

GRID = Grid((8, 4, 4), (100, 200, 300), (20, 24, 28))
RAW = np.random.default_rng(0).integers(1, 255, GRID.shape).astype(np.uint8)
SHARDED = [
    {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [4, 4, 4], "codecs": [{"name": "bytes"}]},
    }
]
LAYOUTS = {
    "chunks": {},
    "chunk names of version 2": {
        "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}
    },
    "dots": {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}},
    "shards": {"codecs": SHARDED},
}


def write(path, voxels=RAW, attributes=None, array_attributes=None, **metadata):
    """Write a zarr 3 group with one level."""
    (path / "s0").mkdir(parents=True)
    ome = {"version": "0.5", "multiscales": [multiscale_metadata("", [GRID])]}
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"ome": ome} | (attributes or {}),
    }
    (path / "zarr.json").write_text(json.dumps(group))
    metadata = {
        "shape": voxels.shape,
        "data_type": voxels.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 8, 8]}},
        "attributes": array_attributes or {},
    } | metadata
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/s0/"}}
    ts.open(spec | {"metadata": metadata}, create=True).result().write(voxels).result()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_voxels_equal_those_of_zarr_2(tmp_path, layout):
    write(tmp_path / "3", **layout)
    create(tmp_path / "2", GRID, "uint8").write(RAW).result()
    zarr3, zarr2 = Volume.open(tmp_path / "3"), Volume.open(tmp_path / "2")
    assert zarr3.levels[0].grid == zarr2.levels[0].grid == GRID
    part = GRID.box((3, -4, 5), (9, 12, 30))
    np.testing.assert_array_equal(zarr3.read_raw(part), zarr2.read_raw(part))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_missing_files_are_found(tmp_path, layout):
    write(tmp_path, **layout)
    level = Volume.open(tmp_path).levels[0]
    assert level.metadata.chunks == (8, 8, 8)
    assert not level.missing_chunks((0, 0, 0), GRID.shape).any()
    (tmp_path / "s0" / level.metadata.chunk_name((1, 2, 3))).unlink()
    assert np.argwhere(level.__class__(level.path, level.grid, "zarr3").missing_chunks(
        (0, 0, 0), GRID.shape)).tolist() == [[1, 2, 3]]  # fmt: skip


def test_annotation_of_labels_is_read(tmp_path):
    encoding = {"annotation_type": {"encoding": {"unknown": 255}}}
    voxels = np.where(RAW > 200, 255, RAW % 3).astype(np.uint8)
    write(tmp_path, voxels, array_attributes={"cellmap": {"annotation": encoding}})
    ids, known = LabelVolume.open(tmp_path).read(GRID)
    np.testing.assert_array_equal(known, voxels != 255)
    np.testing.assert_array_equal(ids, np.where(voxels == 255, 0, voxels))


def test_single_array_with_a_voxel_size_is_a_volume(tmp_path):
    placed = {"voxel_size": [8, 4, 4], "translation": [100, 200, 300]}
    write(tmp_path, array_attributes=placed)
    assert Volume.open(tmp_path / "s0").levels[0].grid == GRID


def test_all_chunks_of_a_shard_are_decoded(tmp_path):
    write(tmp_path, codecs=SHARDED)
    request = ChunkRequest(Volume.open(tmp_path).levels[0])
    request.add_box((0, 0, 0), GRID.shape)
    decode_chunks([request], threads=1)
    assert request.chunk_bytes == 4**3
    assert request.statistics.decoded == len(request.stored) == 3 * 3 * 4
    assert request.statistics.present == RAW.size
    assert (request.statistics.low, request.statistics.high) == (RAW.min(), RAW.max())


def test_file_with_unknown_metadata_is_named(tmp_path):
    write(tmp_path)
    stored = json.loads((tmp_path / "s0/zarr.json").read_text())
    stored["chunk_key_encoding"] = {"name": "mine"}
    (tmp_path / "s0/zarr.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"s0/zarr.json does not say how .* encoding 'mine'"):
        _ = Volume.open(tmp_path).levels[0].metadata
    with pytest.raises(ValueError, match="of a 'group', not of an array"):
        parse_zarr_json(stored | {"node_type": "group"})


def test_unknown_codec_is_refused(tmp_path):
    write(tmp_path)
    file = tmp_path / "s0/zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"codecs": [{"name": "mine"}]}))
    with pytest.raises(InputError, match="s0 cannot be opened"):
        _ = Level(tmp_path / "s0", GRID, "zarr3").array
