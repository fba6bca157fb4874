"""Statistics of raw: known values, padding that does not count, and volumes that are too large."""

import json

import numpy as np
import pytest
import tensorstore as ts

import cellmap_pipeline.io.raw_statistics as module
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.arrays import Level
from cellmap_pipeline.io.raw_statistics import (
    measure_level,
    measure_raw,
    read_raw_statistics,
    stored_chunks,
    write_raw_statistics,
)
from cellmap_pipeline.io.volumes import Volume, create

GRID = Grid((8, 8, 8), (0, 0, 0), (64, 48, 80))
NOISE = np.random.default_rng(0).normal(150, 12, GRID.shape).round().astype(np.uint8)


def store(path, voxels, chunk=16, write_empty=True):
    """Store raw, by default also chunks that hold only the fill value."""
    create(path, GRID, voxels.dtype.name, chunk=chunk)
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/s0/"}}
    array = ts.open(spec | {"store_data_equal_to_fill_value": write_empty}).result()
    array.write(voxels).result()
    return Volume.open(path)


@pytest.mark.parametrize(
    ("dtype", "factor"), [(np.uint8, 1), (np.uint16, 257), (np.float32, 1 / 255)]
)
def test_statistics_are_those_of_the_voxels(tmp_path, dtype, factor):
    found = measure_raw(store(tmp_path / "raw", (NOISE * dtype(factor)).astype(dtype)))["s0"]
    expected = NOISE / 255
    assert found.chunks == 4 * 3 * 5
    assert found.mean == pytest.approx(expected.mean(), abs=1e-6)
    assert found.std == pytest.approx(expected.std(), abs=1e-6)
    percentiles = [found.percentile_00_5, found.percentile_99_5]
    assert percentiles == pytest.approx(np.percentile(expected, [0.5, 99.5]), abs=1e-6)
    assert (found.minimum, found.maximum) == pytest.approx((expected.min(), expected.max()))


def test_padding_does_not_count(tmp_path):
    whole = measure_raw(store(tmp_path / "whole", NOISE))["s0"]
    # The last third is padding: stored zeros, zeros that are not stored, and stored white. It
    # begins within chunks.
    padded = NOISE.copy()
    padded[40:] = 0
    for name, stored in (("stored", True), ("missing", False)):
        found = measure_raw(store(tmp_path / name, padded, write_empty=stored))["s0"]
        assert found.chunks == 45
        assert found.mean == pytest.approx(whole.mean, abs=1e-3)
        assert found.std == pytest.approx(whole.std, rel=0.02)
        assert found.percentile_00_5 == pytest.approx(whole.percentile_00_5, abs=1 / 255)
    padded[32:] = 255
    assert measure_raw(store(tmp_path / "white", padded))["s0"].maximum < 0.9


def test_values_that_are_not_finite_do_not_count(tmp_path):
    raw = (NOISE / 255).astype(np.float32)
    raw[0, 0, :4] = [np.nan, np.inf, -np.inf, np.nan]
    assert measure_raw(store(tmp_path / "raw", raw))["s0"].mean == pytest.approx(
        150 / 255, abs=1e-3
    )


def test_each_level_with_data_is_measured(tmp_path):
    store(tmp_path / "raw", NOISE)
    coarse = Grid((16, 16, 16), (4, 4, 4), (32, 24, 40))
    volume = Volume.open(tmp_path / "raw")
    levels = [*volume.levels, Level(tmp_path / "raw/s1", coarse)]
    create(tmp_path / "other", coarse, "uint8", chunk=16)
    (tmp_path / "other/s0").rename(tmp_path / "raw/s1")
    volume.levels = levels
    assert list(measure_raw(volume)) == ["s0"]
    levels[1].array  # noqa: B018
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{tmp_path}/raw/s1/"}}
    ts.open(spec).result().write(NOISE[::2, ::2, ::2]).result()
    assert list(measure_raw(volume)) == ["s0", "s1"]


@pytest.mark.parametrize("value", [0, 7])
def test_raw_without_contrast_is_refused(tmp_path, value):
    volume = store(tmp_path / "raw", np.full(GRID.shape, value, np.uint8))
    with pytest.raises(InputError, match="hold nothing but padding.*set `normalize: range`"):
        measure_raw(volume)


def test_few_evenly_spread_chunks_are_read_and_always_the_same(tmp_path, monkeypatch):
    volume = store(tmp_path / "raw", NOISE, chunk=4)
    monkeypatch.setattr(module, "MAX_CHUNKS", 40)
    read = []
    sample = module._sample_data
    monkeypatch.setattr(
        module, "_sample_data", lambda level, chunk: read.append(chunk) or sample(level, chunk)
    )
    first, again = measure_raw(volume, threads=3), measure_raw(volume)
    assert first == again and first["s0"].chunks == 40 and len(set(read)) == 40
    assert first["s0"].mean == pytest.approx(NOISE.mean() / 255, abs=0.01)
    assert all(len(set(axis)) > 8 for axis in np.transpose(read))


def test_large_chunks_are_sampled(tmp_path, monkeypatch):
    volume = store(tmp_path / "raw", NOISE, chunk=64)
    monkeypatch.setattr(module, "MAX_VOXELS_PER_CHUNK", 2000)
    sizes = [module._sample_data(volume.levels[0], (0, 0, i)).size for i in range(2)]
    assert 1000 < sum(sizes) <= 4000
    assert measure_raw(volume)["s0"].mean == pytest.approx(NOISE.mean() / 255, abs=0.01)


@pytest.mark.parametrize(
    ("driver", "separator"), [("zarr", "."), ("zarr", "/"), ("zarr3", "/"), ("n5", "/")]
)
def test_chunks_of_sparse_arrays_are_found(tmp_path, monkeypatch, driver, separator):
    """As in a local copy of a large volume that has only the raw around crops."""
    shape, chunk = (400, 300, 200), (10, 10, 10)
    in_order = slice(None, None, -1 if driver == "n5" else 1)
    metadata = {
        "zarr": {"chunks": chunk, "dtype": "|u1", "shape": shape, "dimension_separator": separator},
        "zarr3": {
            "shape": shape,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        },
        "n5": {
            "dimensions": shape[in_order],
            "blockSize": chunk[in_order],
            "dataType": "uint8",
            "compression": {"type": "raw"},
        },
    }[driver]
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{tmp_path}/"}}
    array = ts.open(spec | {"metadata": metadata}, create=True).result()
    array = array.T if driver == "n5" else array
    array[110:140, 200:220, 30:40] = NOISE[:30, :20, :10]
    (tmp_path / "notes.txt").touch()
    monkeypatch.setattr(module, "MAX_LOOKED_UP_CHUNKS", 50)
    level = Level(tmp_path, Grid((8, 8, 8), (0, 0, 0), shape), driver)
    assert stored_chunks(level) == [(z, y, 3) for z in (11, 12, 13) for y in (20, 21)]
    found = measure_level(level)
    assert found.chunks == 6
    assert found.mean == pytest.approx(NOISE[:30, :20, :10].mean() / 255)


def test_statistics_are_stored_in_json(tmp_path):
    volumes = {"a/raw": measure_raw(store(tmp_path / "raw", NOISE)), "s3://b/raw": {}}
    write_raw_statistics(tmp_path / "s.json", volumes)
    assert read_raw_statistics(tmp_path / "s.json") == volumes
    content = json.loads((tmp_path / "s.json").read_text())
    assert 0.4 < content["a/raw"]["s0"]["percentile_00_5"] < 0.6
    (tmp_path / "s.json").write_text('{"a": {"s0": {"mean": 1}}}')
    with pytest.raises(InputError, match="s.json does not hold the statistics of raw"):
        read_raw_statistics(tmp_path / "s.json")
