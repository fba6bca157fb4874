"""Volumes of all formats are imported voxel by voxel, at their place."""

import contextlib
import json
import re

import numpy as np
import pytest
import tifffile

from cellmap_pipeline.cli import main
from cellmap_pipeline.data.importing.sources.open_source import open_source
from cellmap_pipeline.data.importing.volume import import_label, import_raw
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume, annotation_counts, present_voxels
from cellmap_pipeline.io.volumes import Volume
from tests.support.foreign_volumes import (
    FORMATS,
    write_hdf5,
    write_mrc,
    write_sections,
    write_tiff,
)

SIZE, CENTER = (8.0, 4.0, 4.0), (100.0, -20.0, 0.5)
# More than one chunk along y and x, and odd.
SHAPE = (19, 131, 150)
RAW = "{0}/{0}.zarr/recon-1/em/fibsem-uint8"


@pytest.fixture
def voxels():
    """Draw voxels, among them chunks of zeros."""
    drawn = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    drawn[:, 64:128, :64] = 0
    return drawn


def read_all(level):
    return level.read((0, 0, 0), level.grid.shape)


@pytest.mark.parametrize("name", FORMATS)
def test_raw_of_each_format_is_imported_exactly(tmp_path, voxels, name):
    write, array = FORMATS[name]
    voxels = voxels.astype(np.uint16) if name in ("MRC", "big-endian TIFF stack") else voxels
    limits = (0, 255) if voxels.dtype == np.uint16 else None
    source = open_source(write(tmp_path / "volume", voxels), array)
    path = import_raw(source, tmp_path / "data/my_cell-1", SIZE, CENTER, limits)
    source.close()
    assert path == tmp_path / "data" / RAW.format("my_cell-1")
    volume = Volume.open(path)
    finest, coarser = volume.levels
    assert finest.grid == Grid(SIZE, CENTER, SHAPE)
    assert finest.metadata.dtype == np.uint8
    assert np.array_equal(read_all(finest), voxels)
    assert not finest.missing_chunks((0, 0, 0), SHAPE).any()
    # Along z, voxels are twice as large already; their lower corners coincide.
    assert coarser.grid == Grid((8, 8, 8), (100, -18, 2.5), (19, 66, 75))
    assert coarser.grid.lower == finest.grid.lower
    padded = np.pad(voxels, [(0, 0), (0, 1), (0, 0)], "edge").astype(float)
    means = padded.reshape(19, 66, 2, 75, 2).mean((2, 4))
    assert np.abs(read_all(coarser) - means).max() <= 0.5
    assert not volume.assumption
    assert not (tmp_path / "data/my_cell-1/.importing").exists()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint32", "uint64"])
def test_labels_of_each_type_are_imported_exactly(tmp_path, dtype):
    ids = np.zeros((70, 72, 74), dtype)
    ids[10:30, 10:30, 10:30] = 1
    ids[40:60, 40:60, 40:60] = min(np.iinfo(dtype).max, 2**40) if dtype != "bool" else 1
    path = tmp_path / "data/a/a.zarr/recon-1/labels/groundtruth/crop7/mito"
    source = open_source(write_hdf5(tmp_path / "volume.h5", ids), "volumes/raw")
    assert import_label(source, tmp_path / "data/a", 7, "mito", SIZE, CENTER) == path
    volume = LabelVolume.open(path)
    finest, coarser = volume.volume.levels
    assert np.array_equal(read_all(finest), ids)
    assert finest.metadata.dtype.kind == "u"
    # Objects of even sizes at even places stay what they are.
    assert np.array_equal(read_all(coarser), ids[:, ::2, ::2])
    assert coarser.grid == Grid((8, 8, 8), (100, -18, 2.5), (70, 36, 37))
    for level, array in ((finest, ids), (coarser, ids[:, ::2, ::2])):
        counts = annotation_counts(level.attributes, level.path)
        assert counts == {"absent": int((array == 0).sum())}
    assert present_voxels(volume) == np.count_nonzero(ids)
    kind = volume.volume.attributes["cellmap"]["annotation"]["annotation_type"]
    assert kind == {"type": "instance_segmentation", "encoding": {"absent": 0}}


def test_a_value_of_unknown_voxels_that_never_occurs_is_warned_of(tmp_path, caplog):
    source = open_source(write_tiff(tmp_path / "volume.tif", np.ones((4, 8, 8), np.uint8)))
    import_label(source, tmp_path / "data/a", 7, "pm", (8, 8, 8), unknown=225)
    assert "no voxel of" in caplog.text and "is 225, the value of --unknown" in caplog.text


def test_unknown_voxels_stay_unknown(tmp_path):
    ids = np.zeros((70, 72, 74), np.uint8)
    ids[10:30, 10:30, 10:30] = 1
    ids[40:, :, :] = 255
    source = open_source(write_tiff(tmp_path / "volume.tif", ids))
    path = import_label(source, tmp_path / "data/a", 7, "pm", (8, 8, 8), unknown=255)
    volume = LabelVolume.open(path)
    for level, step in zip(volume.volume.levels, (1, 2), strict=True):
        _, known = volume.read(level.grid)
        assert np.array_equal(known, ids[::step, ::step, ::step] != 255)
        counts = annotation_counts(level.attributes, level.path)
        assert counts["unknown"] == (ids[::step, ::step, ::step] == 255).sum()
    assert present_voxels(volume) == 20**3


@pytest.mark.parametrize("dtype", ["uint16", "int8", "float32", ">i2"])
def test_raw_of_other_types_is_scaled_only_on_request(tmp_path, dtype):
    voxels = (
        np.random.default_rng(0).integers(-50, 100, SHAPE).clip(0 if dtype == "uint16" else None)
    )
    write_hdf5(tmp_path / "volume.h5", voxels.astype(dtype))
    source = open_source(tmp_path / "volume.h5")
    message = r"give --range LOW HIGH.*\(most voxels in its middle are (0|-50) to 99\)"
    with pytest.raises(InputError, match=message):
        import_raw(source, tmp_path / "a", SIZE)
    path = import_raw(source, tmp_path / "a", SIZE, limits=(-10, 41))
    expected = np.rint(((voxels + 10) * 5).clip(0, 255))
    assert np.array_equal(read_all(Volume.open(path).levels[0]), expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sections_of_ome_tiff_are_in_the_order_of_its_metadata(tmp_path, voxels, compression):
    """Here, the last section comes first in the file."""
    depth, height, width = voxels.shape
    planes = "".join(f'<TiffData FirstZ="{depth - 1 - i}" IFD="{i}"/>' for i in range(depth))
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image'
        ' ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeC="1" SizeT="1'
        f'" SizeX="{width}" SizeY="{height}" SizeZ="{depth}">{planes}</Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(tmp_path / "v.ome.tif", ome=False) as file:
        for number, section in enumerate(voxels[::-1]):
            description = xml if number == 0 else None
            file.write(section, compression=compression, description=description, metadata=None)
    with contextlib.closing(open_source(tmp_path / "v.ome.tif")) as source:
        assert np.array_equal(source.read((0, 0, 0), voxels.shape), voxels)
        assert np.array_equal(source.read((3, 5, 7), (9, 20, 30)), voxels[3:9, 5:20, 7:30])


def test_bytes_of_imod_are_unsigned(tmp_path, voxels):
    path = write_mrc(tmp_path / "volume.mrc", voxels.view(np.int8))
    assert open_source(path).dtype == np.int8
    with path.open("r+b") as file:
        file.seek(152)
        file.write(np.array([1146047817, 0], "i4").tobytes())
    source = open_source(path)
    assert source.dtype == np.uint8
    assert np.array_equal(source.read((0, 0, 0), SHAPE), voxels)


def test_missing_sections_are_filled_only_on_request(tmp_path, voxels, caplog):
    folder = write_sections(tmp_path / "sections", voxels[:9])
    (folder / "cell_z10.tif").unlink()
    (folder / "cell_z11.tif").unlink()
    (folder / "cell_z14.tif").unlink()
    with pytest.raises(InputError, match="cell_z16.tif, those numbered 10, 11 and 14 are missing"):
        open_source(folder)
    source = open_source(folder, fill_gaps=True)
    expected = voxels[[0, 1, 1, 1, 4, 5, 5, 7, 8]]
    assert np.array_equal(source.read((0, 0, 0), expected.shape), expected)
    assert "sections 10, 11 and 14 are missing, and the one before is repeated" in caplog.text


def test_sections_are_ordered_by_the_number_that_counts(tmp_path, voxels):
    folder = write_sections(tmp_path / "sections", voxels)
    for number, path in enumerate(sorted(folder.iterdir(), key=lambda p: int(p.stem[6:]))):
        # In steps of 5, between a magnification and a time.
        path.rename(folder / f"mag20_z{95 + 5 * number}_t{(7919 * number) % 1000}.tif")
    (folder / ".hidden.tif").touch()
    (folder / "notes.txt").touch()
    assert np.array_equal(open_source(folder).read((0, 0, 0), SHAPE), voxels)


def imagej(path, voxels, unit):
    return write_tiff(
        path, voxels, imagej=True, resolution=(0.1, 0.25),
        metadata={"spacing": 8.0, "unit": unit, "axes": "ZYX"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("write", "stated"),
    [
        (lambda p, v: write_mrc(p / "v.mrc", v.astype("i2"), angstrom=40), "along z, but"),
        (lambda p, v: imagej(p / "v.tif", v, "nm"), "4 nm along x, but .* says 10 nm"),
        (lambda p, v: imagej(p / "v.tif", v, "micron"), "8 nm along z, but .* says 8000 nm"),
        (lambda p, v: write_hdf5(p / "v.h5", v, resolution=(8, 4, 5)), "4 nm along x, but .* 5 nm"),
        (lambda p, v: write_hdf5(p / "v.h5", v, element_size_um=(0.1, 0.004, 0.004)), "100 nm"),
        (lambda p, v: imagej(p / "v.tif", v, "pixel"), None),
        (lambda p, v: write_mrc(p / "v.mrc", v.astype("i2"), angstrom=1), None),
        (lambda p, v: write_hdf5(p / "v.h5", v, resolution=(8.02, 4, 4)), None),
    ],
)  # fmt: skip
def test_another_voxel_size_in_the_file_is_reported(tmp_path, voxels, caplog, write, stated):
    source = open_source(write(tmp_path, voxels))
    import_raw(source, tmp_path / "a", SIZE, limits=(0, 255))
    warnings = [record.getMessage() for record in caplog.records]
    assert bool(warnings) == bool(stated)
    assert not stated or any(re.search(stated, warning) for warning in warnings)


def test_axes_of_one_voxel_are_left_out(tmp_path, voxels):
    source = open_source(write_hdf5(tmp_path / "ilastik.h5", voxels[None, ..., None]))
    assert (source.shape, source.chunks[0] <= SHAPE[0]) == (SHAPE, True)
    part = source.read((3, 5, 7), (9, 20, 30))
    assert np.array_equal(part, voxels[3:9, 5:20, 7:30])
    single = open_source(write_hdf5(tmp_path / "single.h5", voxels[:1]))
    assert np.array_equal(single.read((0, 0, 0), (1, *SHAPE[1:])), voxels[:1])


def test_a_misspelled_array_is_named(tmp_path, voxels):
    path = write_hdf5(tmp_path / "v.h5", voxels)
    message = "no array /volumes/rav of .* \\(did you mean '/volumes/raw'"
    with pytest.raises(InputError, match=message):
        open_source(path, "volumes/rav")


def test_an_imported_array_can_be_imported_again(tmp_path, voxels, caplog):
    source = open_source(write_tiff(tmp_path / "volume.tif", voxels))
    path = import_raw(source, tmp_path / "a", SIZE, CENTER)
    again = open_source(path)
    assert again.stated_size == SIZE
    copied = import_raw(again, tmp_path / "b", SIZE)
    assert np.array_equal(read_all(Volume.open(copied).levels[0]), voxels)
    assert not caplog.records


def test_command_imports_raw_and_labels(tmp_path, voxels, capsys):
    raw = write_sections(tmp_path / "sections", voxels)
    mito = write_hdf5(tmp_path / "mito.h5", (voxels[:, :40, :40] > 200).astype(np.int32))
    data = tmp_path / "data/my_cell-1"
    size = ["--voxel-size", "8", "4", "4"]
    assert main(["import", str(raw), str(data), *size]) == 0
    assert f"imported {raw}, 19 × 131 × 150 voxels, to {data}" in capsys.readouterr().out
    label = ["--crop", "3", "--label", "mito", "--translation", "0", "40", "80"]
    assert main(["import", str(mito), str(data), *size, *label]) == 0
    path = data / "my_cell-1.zarr/recon-1/labels/groundtruth/crop3/mito"
    assert Volume.open(path).levels[0].grid.translation == (0, 40, 80)
    for folder in (path, *path.parents[:5]):
        assert json.loads((folder / ".zgroup").read_text()) == {"zarr_format": 2}
