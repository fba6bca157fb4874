"""Objects of known volume, surface and position."""

import json
import tracemalloc

import numpy as np
import pytest

from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.measurement import objects
from cellmap_pipeline.measurement.objects import measure_objects

VOXEL_SIZES = [(8, 8, 8), (3.48, 4, 4), (40, 8, 8), (4.6, 4.6, 45)]


def store(folder, ids, voxel_size=(8, 8, 8), translation=(0, 0, 0), **attributes):
    grid = Grid(voxel_size, translation, ids.shape)
    create(folder / "label", grid, ids.dtype.name, attributes, chunk=32).write(ids).result()
    return LabelVolume.open(folder / "label")


def ball(grid, center, radius):
    axes = [
        t + np.arange(n) * v - c
        for t, n, v, c in zip(grid.translation, grid.shape, grid.voxel_size, center, strict=True)
    ]
    squares = [axis**2 for axis in axes]
    return squares[0][:, None, None] + squares[1][:, None] + squares[2] <= radius**2


@pytest.mark.parametrize("voxel_size", VOXEL_SIZES)
def test_balls_have_their_volume_and_surface_whatever_the_voxels(tmp_path, voxel_size, monkeypatch):
    # Balls lie across several blocks.
    monkeypatch.setattr(objects, "BLOCK_VOXELS", 24)
    rng = np.random.default_rng(0)
    radius = 6 * max(voxel_size)
    shape = np.ceil(2.6 * radius / np.array(voxel_size)).astype(int)
    grid = Grid(voxel_size, (100, -50, 30), shape)
    ratios = []
    for _ in range(4):
        center = np.add(grid.lower, grid.upper) / 2 + rng.uniform(-1, 1, 3) * voxel_size
        ids = np.where(ball(grid, center, radius), np.uint16(7), np.uint16(0))
        volume = store(tmp_path, ids, voxel_size, grid.translation)
        (row,) = measure_objects(volume, "mito").to_dict("records")
        assert row["id"] == 7 and not row["touches_border"]
        assert row["voxels"] == np.count_nonzero(ids)
        assert row["volume_um3"] == pytest.approx(4 / 3 * np.pi * radius**3 / 1e9, rel=0.03)
        measured = [row[f"center_{axis}_nm"] for axis in "zyx"]
        assert np.allclose(measured, center, atol=0.1 * max(voxel_size))
        ratios.append(row["surface_um2"] / (4 * np.pi * radius**2 / 1e6))
    assert np.mean(ratios) == pytest.approx(1, abs=0.025)


@pytest.mark.parametrize("voxel_size", VOXEL_SIZES)
def test_boxes_are_measured_exactly_but_for_the_known_bias_of_flat_faces(tmp_path, voxel_size):
    shape = np.ceil(60 * max(voxel_size) / np.array(voxel_size)).astype(int)
    sides = [n // 2 for n in shape]
    ids = np.zeros(shape, np.uint8)
    start = [n // 4 for n in shape]
    ids[tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))] = 1
    (row,) = measure_objects(store(tmp_path, ids, voxel_size), "mito").to_dict("records")
    nm = np.multiply(sides, voxel_size)
    assert row["volume_um3"] == pytest.approx(np.prod(nm) / 1e9, rel=1e-12)
    center = (np.add(start, np.subtract(sides, 1) / 2)) * voxel_size
    assert [row[f"center_{axis}_nm"] for axis in "zyx"] == pytest.approx(center.tolist())
    faces = 2 * (nm[0] * nm[1] + nm[1] * nm[2] + nm[2] * nm[0]) / 1e6
    assert 0.90 < row["surface_um2"] / faces < 0.94


def test_blocks_do_not_change_the_result(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 40, (6, 7, 8)).repeat(9, 0).repeat(8, 1).repeat(7, 2)
    ids = coarse.astype(np.uint64) * np.uint64(2**50)
    volume = store(tmp_path, ids, (20, 8, 8))
    whole = measure_objects(volume, "cell")
    monkeypatch.setattr(objects, "BLOCK_VOXELS", 17)
    parts = measure_objects(volume, "cell")
    assert list(whole.id) == list(parts.id) == [2**50 * n for n in range(1, 40)]
    for column in whole:
        assert np.allclose(whole[column].astype(float), parts[column].astype(float)), column
    assert whole.voxels.sum() == np.count_nonzero(ids)


def test_objects_at_the_border_are_marked_and_their_cut_is_no_surface(tmp_path):
    ids = np.zeros((40, 40, 40), np.uint8)
    ids[:20, :, :] = 1  # Half of the crop: only its lower face is a surface.
    ids[30:35, 10:15, 10:15] = 2
    ids[30:35, 20:25, 35:] = 3
    ids[30:35, 20:25, 34] = 3
    table = measure_objects(store(tmp_path, ids), "mito").set_index("id")
    assert table.touches_border.to_dict() == {1: True, 2: False, 3: True}
    # The estimate of a flat face along the axes is 7.3% too small.
    assert table.surface_um2[1] == pytest.approx(0.9266 * 40 * 40 * 64 / 1e6, rel=1e-3)


def test_a_semantic_class_is_one_object(tmp_path):
    ids = np.zeros((20, 20, 20), np.uint8)
    ids[2:6, 2:6, 2:6] = ids[10:14, 10:14, 10:14] = 1
    (row,) = measure_objects(store(tmp_path, ids), "er").to_dict("records")
    assert (row["id"], row["voxels"], row["center_z_nm"]) == (1, 128, 8 * 7.5)


def test_unknown_voxels_are_no_object(tmp_path):
    ids = np.zeros((20, 20, 20), np.uint8)
    ids[2:6, 2:6, 2:6], ids[10:] = 1, 255
    encoding = {"annotation": {"annotation_type": {"encoding": {"unknown": 255}}}}
    assert list(measure_objects(store(tmp_path, ids, cellmap=encoding), "mito").voxels) == [64]


@pytest.mark.parametrize("dtype", ["int8", "int64", "bool"])
def test_ids_above_0_are_objects_whatever_their_type(tmp_path, dtype):
    ids = np.zeros((8, 8, 8), dtype)
    ids[2:4], ids[5:] = 1, -1 if dtype != "bool" else 0
    level = {"shape": [8] * 3, "chunks": [8] * 3, "dtype": ids.dtype.str, "fill_value": None}
    settings = {"zarr_format": 2, "order": "C", "compressor": None, "filters": None}
    (tmp_path / ".zarray").write_text(json.dumps(level | settings))
    (tmp_path / ".zattrs").write_text('{"voxel_size": [8, 8, 8], "translation": [0, 0, 0]}')
    (tmp_path / "0.0.0").write_bytes(ids.tobytes())
    table = measure_objects(LabelVolume.open(tmp_path), "mito")
    assert (table.id.tolist(), table.voxels.tolist()) == ([1], [128])


def test_an_empty_label_has_no_rows(tmp_path):
    table = measure_objects(store(tmp_path, np.zeros((5, 6, 7), np.uint8)), "mito")
    assert len(table) == 0
    assert list(table)[:4] == ["id", "voxels", "volume_um3", "surface_um2"]


def test_memory_depends_on_blocks_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "BLOCK_VOXELS", 32)
    ids = np.zeros((160, 160, 160), np.uint64)
    ids[10:150, 10:150, 10:150] = 2**40
    volume = store(tmp_path, ids)
    size = ids.nbytes
    del ids
    tracemalloc.start()
    measure_objects(volume, "cell")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 5
