import json
import pickle
import shutil

import numpy as np
import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.ngff import multiscale_metadata, write_json
from cellmap_pipeline.volumes import LabelVolume, Volume, create

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


def test_levels_know_their_grids(raw):
    volume = Volume.open(raw)
    assert [level.grid for level in volume.levels] == [FINE, FINE.at((8, 8, 8))]


@pytest.mark.parametrize(
    ("wanted", "stored"),
    [((8, 8, 8), 8), ((16, 16, 16), 8), ((6.96, 8, 8), 4), ((4, 4, 4), 4), ((2, 2, 2), 4)],
)
def test_the_coarsest_level_that_is_fine_enough(raw, wanted, stored):
    assert Volume.open(raw).level_for(wanted).grid.voxel_size[0] == stored


def test_raw_by_world_position(raw):
    box = FINE.box((3, 20, 30), (10, 9, 8))
    assert np.allclose(Volume.open(raw).read_raw(box) * 255, VOXELS[3:13, 20:29, 30:38])


def test_raw_beyond_the_volume_is_mirrored(raw):
    box = FINE.box((-5, 40, 50), (12, 12, 12))
    expected = np.pad(VOXELS, ((5, 0), (0, 4), (0, 6)), mode="reflect")[:12, 40:52, 50:62]
    assert np.allclose(Volume.open(raw).read_raw(box) * 255, expected)


def test_raw_beyond_missing_chunks_is_mirrored(raw):
    shutil.rmtree(raw / "s0/2")  # z 32..47 is not there
    box = FINE.box((20, 0, 0), (20, 8, 8))
    expected = np.pad(VOXELS[:32, :8, :8], ((0, 8), (0, 0), (0, 0)), mode="reflect")[20:]
    core = FINE.box((20, 0, 0), (12, 8, 8))
    volume = Volume.open(raw)
    assert np.allclose(volume.read_raw(box, core) * 255, expected)
    assert volume.available(box, core) == core


def test_raw_that_should_be_there_is_an_error(raw):
    (raw / "s0/1/1/1").unlink()
    with pytest.raises(InputError, match="chunks of raw are missing"):
        Volume.open(raw).read_raw(FINE.box((10, 10, 10), (20, 20, 20)))
    with pytest.raises(InputError, match="outside the volume"):
        Volume.open(raw).read_raw(FINE.box((100, 0, 0), (4, 4, 4)))


def test_a_broken_chunk_is_an_error_with_its_name(raw):
    (raw / "s0/0/0/0").write_bytes(b"not blosc")
    with pytest.raises(InputError, match="s0: cannot decode"):
        Volume.open(raw).read_raw(FINE.box((0, 0, 0), (4, 4, 4)))


def test_stored_voxels_are_read_as_they_are_even_half_a_voxel_off(raw):
    volume = Volume.open(raw)
    extent = Grid((4, 4, 4), (102, 2, 2), (8, 8, 8))
    grid = volume.aligned(extent, (8, 8, 8))
    assert FINE.at((8, 8, 8)).offset(grid) is not None
    assert grid.covers(extent)
    assert volume.aligned(extent, (5, 5, 5)) == extent.at((5, 5, 5))


def test_labels_outside_and_unknown_are_not_known(tmp_path):
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


def test_single_arrays_with_attributes(tmp_path):
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


def test_volumes_travel_to_other_processes(raw):
    volume = Volume.open(raw)
    before = volume.read_raw(FINE)
    assert np.array_equal(pickle.loads(pickle.dumps(volume)).read_raw(FINE), before)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "not OME-NGFF 0.4"),
        ('{"multiscales": [{"axes": ["x", "y", "z"], "datasets": []}]}', "axes are"),
        ('{"multiscales": [{"axes": ["z", "y", "x"], "datasets": []}]}', "no datasets"),
    ],
)
def test_bad_metadata_is_named(raw, attributes, message):
    (raw / ".zattrs").write_text(attributes)
    with pytest.raises(InputError, match=message) as error:
        Volume.open(raw)
    assert str(raw) in str(error.value)


def test_a_missing_volume_is_named(tmp_path):
    with pytest.raises(InputError, match="none does not exist"):
        Volume.open(tmp_path / "none")
    with pytest.raises(InputError, match="none of its levels is here .s0.*fetch"):
        create(tmp_path / "v", FINE, "uint8")
        (tmp_path / "v/s0/.zarray").unlink()
        Volume.open(tmp_path / "v")


def pyramid(path, *voxel_sizes):
    """A volume that declares levels of these voxel sizes, all of them here."""
    grids = [Grid((size,) * 3, (size / 2,) * 3, (8, 8, 8)) for size in voxel_sizes]
    create(path, grids[0], "uint8")
    for i in range(1, len(grids)):
        shutil.copytree(path / "s0", path / f"s{i}")
    write_json(path / ".zattrs", {"multiscales": [multiscale_metadata("raw", grids)]})


@pytest.mark.parametrize(
    ("here", "wanted", "read"),
    [
        ([4, 8, 16], 8, 8), ([4, 8, 16], 9, 8), ([4, 8, 16], 2, 4), ([4, 16], 8, 4),
        # A finer level does as well; a coarser one does not.
        ([4], 16, 4), ([8, 16], 4, None), ([16], 8, None), ([8, 16], 2, None),
    ],
)  # fmt: skip
def test_levels_that_are_here_and_that_are_not(tmp_path, here, wanted, read):
    pyramid(tmp_path / "raw", 4, 8, 16)
    for i, size in enumerate((4, 8, 16)):
        if size not in here:
            (tmp_path / f"raw/s{i}/.zarray").unlink()
    volume = Volume.open(tmp_path / "raw")
    assert volume.finest == (4, 4, 4)
    if read:
        assert volume.level_for((wanted,) * 3).grid.voxel_size == (read,) * 3
    else:
        with pytest.raises(InputError, match=r"raw: .*s0: \[4.0, 4.0, 4.0\] nm.*fetch"):
            volume.level_for((wanted,) * 3)


def test_flyem(shared):
    recon = shared / "data/flyem/flyem_medulla-1/flyem_medulla-1.zarr/recon-1"
    raw = Volume.open(recon / "em/fibsem-uint8")
    cell = LabelVolume.open(recon / "labels/groundtruth/crop1/cell")
    ids, known = cell.read(cell.volume.levels[0].grid)
    assert known.all() and ids.max() > 1
    assert raw.levels[0].grid.covers(cell.volume.levels[0].grid)


def test_which_voxels_lie_inside(tmp_path):
    create(tmp_path / "raw", Grid((8, 8, 8), (0, 0, 0), (4, 5, 6)), "uint8")
    volume = Volume.open(tmp_path / "raw")
    assert volume.inside(Grid((8, 8, 8), (-16, 8, 0), (10, 2, 9))) == np.s_[2:6, 0:2, 0:6]
    # Voxels of 4 nm from -4 to 28, 36 and 44 nm.
    assert volume.inside(Grid((4, 4, 4), (-6, -2, 2), (20, 20, 20))) == np.s_[1:9, 0:10, 0:11]
    assert volume.inside(Grid((8, 8, 8), (80, 0, 0), (2, 2, 2))) == np.s_[0:0, 0:2, 0:2]


def test_what_the_finest_level_says_of_a_label_holds_without_its_voxels(tmp_path):
    pyramid(tmp_path / "mito", 4, 8)
    encoding = {"annotation_type": {"encoding": {"unknown": 7}}}
    write_json(tmp_path / "mito/s0/.zattrs", {"cellmap": {"annotation": encoding}})
    (tmp_path / "mito/s1/.zattrs").unlink()
    (tmp_path / "mito/s0/.zarray").unlink()
    assert LabelVolume.open(tmp_path / "mito").unknown == 7
