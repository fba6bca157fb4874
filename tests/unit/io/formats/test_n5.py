"""Volumes in n5, whose axes are x, y, z."""

import json
import shutil

import numpy as np
import pytest
import tensorstore as ts

from cellmap_pipeline.data.layout import raw_path
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create

SHAPE = (10, 12, 14)
RAW = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)


def write(path, attributes, array=RAW):
    """Write an n5 array, which is stored as x, y, z."""
    metadata = {
        "dimensions": array.shape[::-1], "blockSize": [8, 6, 5], "dataType": "uint8",
        "compression": {"type": "gzip"},
    }  # fmt: skip
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}}
    made = ts.open(spec | {"metadata": metadata}, create=True).result()
    made.T.write(array).result()
    file = path / "attributes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | attributes))


def transform(z, y, x, translate=(0, 0, 0)):
    return {"axes": ["z", "y", "x"], "scale": [z, y, x], "translate": list(translate)}


def test_voxels_equal_those_of_zarr(tmp_path):
    grid = Grid((6, 4, 4), (30, 20, 10), SHAPE)
    write(tmp_path / "n5/s0", {"transform": transform(6, 4, 4, (30, 20, 10))})
    (tmp_path / "n5/attributes.json").write_text("{}")
    create(tmp_path / "zarr", grid, "uint8").write(RAW).result()
    n5, zarr = Volume.open(tmp_path / "n5"), Volume.open(tmp_path / "zarr")
    assert n5.levels[0].grid == grid
    for box in (grid, grid.box((3, 2, 1), (4, 7, 9)), grid.box((-2, 0, 8), (5, 14, 8))):
        assert np.array_equal(n5.read_raw(box), zarr.read_raw(box))


def test_axes_may_come_in_any_order(tmp_path):
    turned = {"axes": ["x", "y", "z"], "scale": [4, 5, 6], "translate": [1, 2, 3]}
    write(tmp_path / "raw", {"transform": turned})
    (level,) = Volume.open(tmp_path / "raw").levels
    assert level.grid == Grid((6, 5, 4), (3, 2, 1), SHAPE)


def test_pixel_resolution_and_downsampling_factors_are_x_y_z(tmp_path):
    write(tmp_path / "s0", {})
    write(tmp_path / "s1", {"downsamplingFactors": [2, 2, 1]}, RAW[:, ::2, ::2])
    resolution = {"dimensions": [4.0, 5.0, 6.0], "unit": "nm"}
    (tmp_path / "attributes.json").write_text(json.dumps({"pixelResolution": resolution}))
    fine, coarse = Volume.open(tmp_path).levels
    assert fine.grid == Grid((6, 5, 4), (0, 0, 0), SHAPE)
    assert coarse.grid == Grid((6, 10, 8), (0, 2.5, 2), (10, 6, 7))


def test_absent_level_is_an_error_only_if_it_is_read(tmp_path):
    datasets = [{"path": f"s{i}", "transform": transform(*[4 * 2**i] * 3)} for i in range(2)]
    for i in range(2):
        write(tmp_path / f"s{i}", {})
    (tmp_path / "attributes.json").write_text(json.dumps({"multiscales": [{"datasets": datasets}]}))
    assert [level.grid.voxel_size[0] for level in Volume.open(tmp_path).levels] == [4, 8]
    shutil.rmtree(tmp_path / "s0")
    with pytest.raises(InputError, match="s0: .4.0.*fetch"):
        Volume.open(tmp_path).level_for((4, 4, 4))


def test_scales_of_the_group_list_the_levels(tmp_path):
    group = {
        "pixelResolution": {"dimensions": [4.0, 4.0, 5.0], "unit": "nm"},
        "scales": [[1, 1, 1], [2, 2, 1], [4, 4, 2]],
    }
    write(tmp_path / "s1", {})
    (tmp_path / "attributes.json").write_text(json.dumps(group))
    volume = Volume.open(tmp_path)
    assert [level.grid for level in volume.levels] == [Grid((5, 8, 8), (0, 2, 2), SHAPE)]
    assert [size for _, size in volume.declared] == [(5, 4, 4), (5, 8, 8), (10, 16, 16)]


def test_resolution_stated_by_a_level_is_used(tmp_path):
    for i in range(2):
        resolution = {"dimensions": [0.004 * 2**i] * 3, "unit": "um"}
        write(tmp_path / f"s{i}", {"pixelResolution": resolution})
    (tmp_path / "attributes.json").write_text('{"pixelResolution": [4, 4, 4]}')
    fine, coarse = Volume.open(tmp_path).levels
    assert fine.grid == Grid((4, 4, 4), (0, 0, 0), SHAPE)
    assert coarse.grid == Grid((8, 8, 8), (2, 2, 2), SHAPE)
    # Without the resolution of the group, the positions of levels are unknown.
    (tmp_path / "attributes.json").write_text("{}")
    with pytest.raises(InputError, match="attributes.json does not say"):
        Volume.open(tmp_path)


def test_multiscales_in_the_form_of_ngff_are_read(tmp_path):
    write(tmp_path / "s0", {})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "xyz"]
    steps = [
        {"type": "scale", "scale": [0.004, 0.005, 0.006]},
        {"type": "translation", "translation": [0.1, 0.2, 0.3]},
    ]
    datasets = [{"path": "s0", "coordinateTransformations": steps}]
    group = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    (tmp_path / "attributes.json").write_text(json.dumps(group))
    (level,) = Volume.open(tmp_path).levels
    assert np.allclose(level.grid.voxel_size, (6, 5, 4))
    assert np.allclose(level.grid.translation, (300, 200, 100))
    assert level.grid.shape == SHAPE
    # Transformations of the whole multiscale apply after those of its levels.
    shared = [
        {"type": "translation", "translation": [1, 2, 3]},
        {"type": "scale", "scale": [2] * 3},
    ]
    group["multiscales"][0]["coordinateTransformations"] = shared
    (tmp_path / "attributes.json").write_text(json.dumps(group))
    (level,) = Volume.open(tmp_path).levels
    assert np.allclose(level.grid.voxel_size, (12, 10, 8))
    assert np.allclose(level.grid.translation, (6600, 4400, 2200))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"multiscales": [{"datasets": [{}]}]}, "`multiscales.0.datasets.0.path`: Field req"),
        ({"multiscales": [{"datasets": [{"path": "s7"}]}]}, "does not say"),
        (
            {"pixelResolution": {"dimensions": [4] * 3, "unit": "inch"}},
            "`pixelResolution.unit`: 'inch'",
        ),
        ({}, "does not say"),
    ],
    ids=["no path", "absent level", "unknown unit", "no resolution"],
)
def test_malformed_groups_are_named(tmp_path, group, message):
    write(tmp_path / "raw/s0", {})
    (tmp_path / "raw/attributes.json").write_text(json.dumps(group))
    with pytest.raises(InputError, match=message) as error:
        Volume.open(tmp_path / "raw")
    assert str(error.value).startswith(f"{tmp_path}/raw/attributes.json")


def test_group_without_levels_is_refused(tmp_path):
    (tmp_path / "attributes.json").write_text("{}")
    with pytest.raises(InputError, match="holds no level"):
        Volume.open(tmp_path)


def test_missing_chunks_are_found(tmp_path):
    write(tmp_path / "raw", {"transform": transform(8, 8, 8)})
    # x 1, y 0, z 0
    (tmp_path / "raw/1/0/0").unlink()
    level = Volume.open(tmp_path / "raw").levels[0]
    missing = level.missing_chunks((0, 0, 0), SHAPE)
    assert missing.shape == (2, 2, 2) and np.argwhere(missing).tolist() == [[0, 0, 1]]


def test_array_without_a_position_is_refused(tmp_path):
    write(tmp_path / "raw", {})
    with pytest.raises(InputError, match="raw/attributes.json does not say.*pixelResolution"):
        Volume.open(tmp_path / "raw")


def test_n5_raw_is_used_if_there_is_no_zarr(tmp_path):
    folder = tmp_path / "a/a.n5/recon-1/em/fibsem-uint8"
    folder.mkdir(parents=True)
    assert raw_path(tmp_path, "a") == folder
    zarr = tmp_path / "a/a.zarr/recon-1/em/fibsem-uint8"
    zarr.mkdir(parents=True)
    assert raw_path(tmp_path, "a") == zarr
