"""Volumes that are written, and read by world position."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.formats.ngff import multiscale_metadata, write_metadata
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.storage import ABSENT_FILE
from cellmap_pipeline.io.volumes import Volume, create

FINE = Grid((4, 4, 4), (100, 0, 0), (40, 48, 56))
rng = np.random.default_rng(0)
VOXELS = rng.integers(1, 255, FINE.shape).astype(np.uint8)


@pytest.fixture
def raw(tmp_path):
    """A raw volume with levels at 4 and 8 nm, chunks of 16 voxels."""
    path = tmp_path / "raw"
    create(path, FINE, "uint8", chunk=16).write(VOXELS).result()
    coarse = FINE.at((8, 8, 8))
    mean = VOXELS.reshape(20, 2, 24, 2, 28, 2).mean(axis=(1, 3, 5)).astype(np.uint8)
    create(tmp_path / "coarse", coarse, "uint8", chunk=16).write(mean).result()
    shutil.move(tmp_path / "coarse/s0", path / "s1")
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0]["datasets"].append(
        {
            "path": "s1",
            "coordinateTransformations": [
                {"type": "scale", "scale": list(coarse.voxel_size)},
                {"type": "translation", "translation": list(coarse.translation)},
            ],
        }
    )
    (path / ".zattrs").write_text(json.dumps(attributes))
    return path


def label(path, voxels, grid, annotation=None):
    attributes = {"cellmap": {"annotation": annotation or {}}}
    create(path, grid, voxels.dtype.name, attributes).write(voxels).result()
    return LabelVolume.open(path)


def test_levels_have_the_grids_in_the_metadata(raw):
    volume = Volume.open(raw)
    assert [level.grid for level in volume.levels] == [FINE, FINE.at((8, 8, 8))]


@pytest.mark.parametrize(
    ("wanted", "stored"),
    [((8, 8, 8), 8), ((16, 16, 16), 8), ((6.96, 8, 8), 4), ((4, 4, 4), 4), ((2, 2, 2), 4)],
    ids=str,
)
def test_coarsest_level_that_is_fine_enough_is_read(raw, wanted, stored):
    assert Volume.open(raw).level_for(wanted).grid.voxel_size[0] == stored


def test_raw_is_read_by_world_position(raw):
    box = FINE.box((3, 20, 30), (10, 9, 8))
    assert np.allclose(Volume.open(raw).read_raw(box) * 255, VOXELS[3:13, 20:29, 30:38])


def test_raw_beyond_the_volume_is_mirrored(raw):
    box = FINE.box((-5, 40, 50), (12, 12, 12))
    expected = np.pad(VOXELS, ((5, 0), (0, 4), (0, 6)), mode="reflect")[:12, 40:52, 50:62]
    assert np.allclose(Volume.open(raw).read_raw(box) * 255, expected)


def test_floats_that_exceed_the_range_by_rounding_are_clipped(tmp_path):
    grid = Grid((8, 8, 8), (0, 0, 0), (1, 1, 4))
    voxels = np.array([-0.0005, 0.25, 1, 1.0005], np.float32).reshape(grid.shape)
    create(tmp_path / "raw", grid, "float32").write(voxels).result()
    assert Volume.open(tmp_path / "raw").read_raw(grid).ravel().tolist() == [0, 0.25, 1, 1]


def test_raw_beyond_missing_chunks_is_mirrored(raw):
    shutil.rmtree(raw / "s0/2")  # z 32 to 47
    box = FINE.box((20, 0, 0), (20, 8, 8))
    expected = np.pad(VOXELS[:32, :8, :8], ((0, 8), (0, 0), (0, 0)), mode="reflect")[20:]
    core = FINE.box((20, 0, 0), (12, 8, 8))
    volume = Volume.open(raw)
    assert np.allclose(volume.read_raw(box, core) * 255, expected)
    assert volume.available(box, core) == core


def test_raw_of_another_crop_behind_missing_chunks_is_not_read(raw):
    """The last layer of chunks is present, the one before it is missing."""
    shutil.rmtree(raw / "s0/1")
    core = FINE.box((4, 0, 0), (12, 8, 8))
    volume = Volume.open(raw)
    assert volume.available(FINE.box((4, 0, 0), (40, 8, 8)), core) == core


def test_missing_chunks_of_the_core_are_an_error(raw):
    (raw / "s0/1/1/1").unlink()
    with pytest.raises(InputError, match="chunks of raw are missing"):
        Volume.open(raw).read_raw(FINE.box((10, 10, 10), (20, 20, 20)))
    with pytest.raises(InputError, match="outside the volume"):
        Volume.open(raw).read_raw(FINE.box((100, 0, 0), (4, 4, 4)))


def test_broken_chunk_is_an_error_that_names_its_array(raw):
    (raw / "s0/0/0/0").write_bytes(b"not blosc")
    with pytest.raises(InputError, match="s0: cannot read"):
        Volume.open(raw).read_raw(FINE.box((0, 0, 0), (4, 4, 4)))


def test_stored_voxels_half_a_voxel_off_are_not_interpolated(raw):
    volume = Volume.open(raw)
    extent = Grid((4, 4, 4), (102, 2, 2), (8, 8, 8))
    grid = volume.aligned(extent, (8, 8, 8))
    assert FINE.at((8, 8, 8)).offset(grid) is not None
    assert grid.covers(extent)
    assert volume.aligned(extent, (5, 5, 5)) == extent.at((5, 5, 5))


def test_voxels_outside_the_volume_and_unknown_voxels_are_not_known(tmp_path):
    ids = np.zeros((6, 6, 6), np.uint8)
    ids[2:4] = 7
    ids[5] = 255
    grid = Grid((4, 4, 4), (0, 0, 0), ids.shape)
    encoding = {"absent": 0, "unknown": 255}
    volume = label(tmp_path / "mito", ids, grid, {"annotation_type": {"encoding": encoding}})
    read, known = volume.read(grid.box((-1, 0, 0), (8, 6, 6)))
    assert known[:, 0, 0].tolist() == [False, True, True, True, True, True, False, False]
    assert read[:, 0, 0].tolist() == [0, 0, 0, 7, 7, 0, 0, 0]
    read, known = volume.read(grid.box((100, 0, 0), (3, 3, 3)))
    assert not known.any() and not read.any()


def test_without_an_unknown_value_255_is_an_object(tmp_path):
    ids = np.full((4, 4, 4), 255, np.uint8)
    volume = label(tmp_path / "mito", ids, Grid((4, 4, 4), (0, 0, 0), ids.shape))
    read, known = volume.read(volume.volume.levels[0].grid)
    assert known.all() and (read == 255).all()


def test_single_array_with_attributes_is_a_volume(tmp_path):
    path = tmp_path / "label"
    create(path, FINE, "uint8").write(VOXELS).result()
    (level,) = Volume.open(path / "s0").levels
    assert level.grid == FINE
    assert np.array_equal(level.read((0, 0, 0), FINE.shape), VOXELS)


def test_written_volumes_open_with_zarr(tmp_path):
    import zarr

    create(tmp_path / "v", FINE, "uint16").write(VOXELS).result()
    group = zarr.open(str(tmp_path / "v"), mode="r")
    assert np.array_equal(group["s0"][:], VOXELS)
    assert group["s0"].attrs["translation"] == [100, 0, 0]


def test_volumes_can_be_pickled(raw):
    volume = Volume.open(raw)
    before = volume.read_raw(FINE)
    assert np.array_equal(pickle.loads(pickle.dumps(volume)).read_raw(FINE), before)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "not OME-NGFF 0.4 or 0.5"),
        ('{"multiscales": [{"axes": ["x", "y", "z"], "datasets": []}]}', "axes are"),
        ('{"multiscales": [{"axes": ["z", "y", "x"], "datasets": []}]}', "no datasets"),
        (
            '{"multiscales": [{"axes": [{"name": "z", "unit": "inch"}, {"name": "y"}, '
            '{"name": "x"}], "datasets": []}]}',
            "axes are in inch, nanometer, but must",
        ),
    ],
    ids=["not JSON", "no multiscales", "order of axes", "no datasets", "unknown unit"],
)
def test_bad_metadata_is_named(raw, attributes, message):
    (raw / ".zattrs").write_text(attributes)
    with pytest.raises(InputError, match=message) as error:
        Volume.open(raw)
    assert str(raw) in str(error.value)


@pytest.mark.parametrize(
    "unit,own,shared,size,center",
    [
        ("micrometer", [[0.008] * 3, [0.1, 0, 0]], [], 8, 100),
        ("\u00b5m", [[0.008] * 3, [0.1, 0, 0]], [], 8, 100),
        ("\u03bcm", [[0.008] * 3, [0.1, 0, 0]], [], 8, 100),
        ("meter", [[8e-9] * 3, [1e-7, 0, 0]], [], 8, 100),
        ("picometer", [[8000.0] * 3, [100_000.0, 0, 0]], [], 8, 100),
        # Transformations of the multiscale apply after those of its datasets.
        ("nanometer", [[2.0] * 3, [10, 0, 0]], [[4.0] * 3, [1, 0, 0]], 8, 41),
        ("nanometer", [[1.0] * 3, [10, 0, 0]], [[8.0] * 3], 8, 80),
    ],
    ids=[
        "micrometer", "micro sign", "Greek mu", "meter", "picometer", "shared steps",
        "shared scale",
    ],
)  # fmt: skip
def test_units_and_transformations_of_the_whole_multiscale_are_applied(
    tmp_path, unit, own, shared, size, center
):
    kinds = ("scale", "translation")
    steps = [
        [{"type": kind, kind: values} for kind, values in zip(kinds, given, strict=False)]
        for given in (own, shared)
    ]
    create(tmp_path / "v", Grid((8, 8, 8), (0, 0, 0), (4, 4, 4)), "uint8")
    multiscale = {
        "axes": [{"name": axis, "type": "space", "unit": unit} for axis in "zyx"],
        "datasets": [{"path": "s0", "coordinateTransformations": steps[0]}],
        "coordinateTransformations": steps[1],
    }
    write_metadata(tmp_path / "v/.zattrs", {"multiscales": [multiscale]})
    grid = Volume.open(tmp_path / "v").levels[0].grid
    assert grid.voxel_size == pytest.approx((size,) * 3)
    assert grid.translation == pytest.approx((center, 0, 0))


def test_a_missing_volume_is_named(tmp_path):
    with pytest.raises(InputError, match="none does not exist"):
        Volume.open(tmp_path / "none")
    with pytest.raises(InputError, match="none of its levels is present .s0.*fetch"):
        create(tmp_path / "v", FINE, "uint8")
        (tmp_path / "v/s0/.zarray").unlink()
        Volume.open(tmp_path / "v")


def pyramid(path, *voxel_sizes):
    """Write a volume with levels of these voxel sizes, all of them present."""
    grids = [Grid((size,) * 3, (size / 2,) * 3, (8, 8, 8)) for size in voxel_sizes]
    create(path, grids[0], "uint8")
    for i in range(1, len(grids)):
        shutil.copytree(path / "s0", path / f"s{i}")
    write_metadata(path / ".zattrs", {"multiscales": [multiscale_metadata("raw", grids)]})


@pytest.mark.parametrize(
    ("here", "wanted", "read"),
    [
        ([4, 8, 16], 8, 8), ([4, 8, 16], 9, 8), ([4, 8, 16], 2, 4), ([4, 16], 8, 4),
        # A finer level replaces an absent one; a coarser one does not.
        ([4], 16, 4), ([8, 16], 4, "s0: [4.0"), ([16], 8, "s1: [8.0"), ([8, 16], 2, "s0: [4.0"),
    ], ids=str,
)  # fmt: skip
def test_finer_but_no_coarser_level_replaces_an_absent_one(tmp_path, here, wanted, read):
    pyramid(tmp_path / "raw", 4, 8, 16)
    for i, size in enumerate((4, 8, 16)):
        if size not in here:
            (tmp_path / f"raw/s{i}/.zarray").unlink()
    volume = Volume.open(tmp_path / "raw")
    assert volume.finest_voxel_size == (4, 4, 4)
    if isinstance(read, int):
        assert volume.level_for((wanted,) * 3).grid.voxel_size == (read,) * 3
    else:
        with pytest.raises(InputError, match=rf"raw: .*\({re.escape(read)}.* nm\): fetch it"):
            volume.level_for((wanted,) * 3)


def test_real_data_of_flyem_are_read(shared):
    recon = shared / "data/flyem/flyem_medulla-1/flyem_medulla-1.zarr/recon-1"
    raw = Volume.open(recon / "em/fibsem-uint8")
    cell = LabelVolume.open(recon / "labels/groundtruth/crop1/cell")
    ids, known = cell.read(cell.volume.levels[0].grid)
    assert known.all() and ids.max() > 1
    assert raw.levels[0].grid.covers(cell.volume.levels[0].grid)


@pytest.mark.parametrize(
    ("grid", "inside"),
    [
        (Grid((8, 8, 8), (-16, 8, 0), (10, 2, 9)), np.s_[2:6, 0:2, 0:6]),
        # The volume covers -4 to 28, 36 and 44 nm.
        (Grid((4, 4, 4), (-6, -2, 2), (20, 20, 20)), np.s_[1:9, 0:10, 0:11]),
        (Grid((8, 8, 8), (80, 0, 0), (2, 2, 2)), np.s_[0:0]),
    ],
    ids=["same voxel size", "finer", "outside"],
)
def test_voxels_inside_the_volume_are_marked(tmp_path, grid, inside):
    create(tmp_path / "raw", Grid((8, 8, 8), (0, 0, 0), (4, 5, 6)), "uint8")
    expected = np.zeros(grid.shape, bool)
    expected[inside] = True
    assert np.array_equal(Volume.open(tmp_path / "raw").inside(grid), expected)


def lacks(raw, *names):
    """Remove chunks of `s0`, and record that the source lacks them."""
    for name in names:
        (raw / "s0" / name).unlink()
    (raw / "s0" / ABSENT_FILE).write_text(json.dumps([*names, ".zattrs"]))


def test_chunks_that_the_source_lacks_are_zero_and_outside_the_volume(raw):
    """Other missing chunks are an error."""
    lacks(raw, "1/0/1")  # z 16..31, y 0..15, x 16..31
    volume = Volume.open(raw)
    box = FINE.box((10, 2, 20), (10, 20, 20))
    expected = VOXELS.copy()
    expected[16:32, :16, 16:32] = 0
    assert np.allclose(volume.read_raw(box) * 255, expected[10:20, 2:22, 20:40])
    assert np.array_equal(volume.inside(box), expected[10:20, 2:22, 20:40] > 0)
    # In the context of a crop, voxels next to the chunk are mirrored into it.
    core = FINE.box((10, 2, 20), (6, 20, 20))
    values = volume.read_raw(box, core) * 255
    assert np.allclose(values[6:], VOXELS[14:10:-1, 2:22, 20:40])
    (raw / "s0/0/0/1").unlink()
    with pytest.raises(InputError, match="1 chunks of raw are missing.*fetch"):
        Volume.open(raw).read_raw(box)


def test_crop_without_any_raw_in_the_source_is_an_error(raw):
    lacks(raw, "1/1/1")
    volume = Volume.open(raw)
    core = FINE.box((16, 16, 16), (8, 8, 8))
    with pytest.raises(InputError, match="no raw at voxels .16, 16, 16. to .24, 24, 24."):
        volume.available(core.padded((4, 4, 4)), core)
    assert volume.available(FINE.box((12, 16, 16), (8, 8, 8)), core.box((-4, 0, 0), (8, 8, 8)))


@given(
    start=st.tuples(*[st.integers(-30, 60)] * 3),
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    size=st.sampled_from([2.0, 4.0, 7.0, 8.0]),
    empty=st.sets(st.tuples(*[st.integers(0, 2)] * 3), max_size=4),
)
@settings(max_examples=40)
def test_voxels_inside_a_volume_equal_those_of_a_plain_computation(
    tmp_path_factory, start, shape, size, empty
):
    path = tmp_path_factory.mktemp("inside") / "raw"
    create(path, FINE, "uint8", chunk=16)
    (path / "s0" / ABSENT_FILE).write_text(json.dumps(["/".join(map(str, key)) for key in empty]))
    grid = Grid((size,) * 3, tuple(101.3 + 4 * s for s in start), shape)
    inside = Volume.open(path).inside(grid)
    for index in np.random.default_rng(0).integers(0, shape, (20, 3)):
        at = [
            round((t + i * size - origin) / 4)
            for t, i, origin in zip(grid.translation, index, FINE.translation, strict=True)
        ]
        within = all(0 <= i < n for i, n in zip(at, FINE.shape, strict=True))
        assert inside[tuple(index)] == (within and tuple(i // 16 for i in at) not in empty)


def test_labels_of_4_nm_are_aligned_with_raw_of_8_nm(tmp_path):
    """In published labels, the centers of voxels are half a voxel off those of raw."""
    raw = Grid((8, 8, 8), (4, 4, 4), (12, 12, 12))
    values = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None] * 10, raw.shape)
    create(tmp_path / "raw", raw, "uint8", chunk=4).write(values).result()
    fine = Grid((4, 4, 4), (34, 2, 2), (8, 24, 24))
    ids = np.zeros(fine.shape, np.uint8)
    ids[3:] = 1  # from 44 nm on: the upper half of raw voxel 5 (40..48), and 6 and 7 (to 64)
    mito = label(tmp_path / "mito", ids, fine)
    volume = Volume.open(tmp_path / "raw")
    grid = volume.aligned(fine, (8, 8, 8))
    assert grid == Grid((8, 8, 8), (36, 4, 4), (4, 12, 12))
    image = volume.read_raw(grid.box((0, 2, 2), (4, 1, 1)))[:, 0, 0]
    assert np.allclose(image * 255, [40, 50, 60, 70])
    read, known = mito.read(grid)
    assert known.all() and read[:, 0, 0].tolist() == [0, 1, 1, 1]  # half of voxel 5
    # On the grid of the label, raw is interpolated at one and three quarters between its voxels.
    image = volume.read_raw(fine.box((1, 5, 5), (4, 1, 1)))[:, 0, 0]
    assert np.allclose(image * 255, [42.5, 47.5, 52.5, 57.5])


def test_voxels_of_6_96_nm_count_as_8(tmp_path):
    """Raw of 6.96 x 8 x 8 nm is fine enough for 8 nm."""
    grid = Grid((6.96, 8, 8), (0, 0, 0), (24, 8, 8))
    values = np.broadcast_to(np.arange(24, dtype=np.uint8)[:, None, None] * 10, grid.shape)
    create(tmp_path / "raw", grid, "uint8").write(values).result()
    volume = Volume.open(tmp_path / "raw")
    box = Grid((8, 8, 8), (69.6, 0, 0), (5, 8, 8))
    assert volume.level_for(box.voxel_size).grid == grid
    # Voxel k of 8 nm is centered at stored voxel 10 + 1.1494 k, whose value is its mean.
    assert np.allclose(
        volume.read_raw(box)[:, 4, 4] * 255, 100 + 10 * 8 / 6.96 * np.arange(5), atol=0.5
    )
    assert volume.aligned(grid.box((1, 0, 0), (8, 8, 8)), (8, 8, 8)).voxel_size == (8, 8, 8)


def test_encoding_of_an_absent_finest_level_is_used(tmp_path):
    pyramid(tmp_path / "mito", 4, 8)
    encoding = {"annotation_type": {"encoding": {"unknown": 7}}}
    write_metadata(tmp_path / "mito/s0/.zattrs", {"cellmap": {"annotation": encoding}})
    (tmp_path / "mito/s1/.zattrs").unlink()
    (tmp_path / "mito/s0/.zarray").unlink()
    assert LabelVolume.open(tmp_path / "mito").encoding.unknown == 7
