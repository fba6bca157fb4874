"""Broken, incomplete and unsuitable sources end with one message, and leave nothing behind."""

import os
import re
import shutil
import struct
import subprocess
import sys
import zlib

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from cellmap_pipeline.cli import main
from cellmap_pipeline.data.importing import boxes
from cellmap_pipeline.data.importing.sources.open_source import open_source
from cellmap_pipeline.data.importing.volume import import_raw
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume, create_levels
from tests.support.foreign_volumes import (
    write_hdf5,
    write_mrc,
    write_n5,
    write_sections,
    write_tiff,
    write_zarr,
)
from tests.support.spoiled import truncate

SIZE = (8.0, 8.0, 8.0)
VOXELS = np.random.default_rng(0).integers(0, 256, (6, 70, 80), np.uint8)


def sections(folder, suffix=".tif"):
    return write_sections(folder / "sections", VOXELS, suffix)


def with_truncated_section(folder, suffix):
    path = sections(folder, suffix)
    truncate(path / f"cell_z10{suffix}")
    return path


def without_sections(folder):
    path = sections(folder)
    for number in (10, 11):
        (path / f"cell_z{number}.tif").unlink()
    return path


def truncated(path, share=0.7):
    truncate(path, share)
    return path


def with_section(folder, name, section):
    path = sections(folder)
    tifffile.imwrite(path / name, section)
    return path


def with_huge_png(folder):
    """A PNG of some bytes whose header says that it has 10^9 pixels."""
    path = sections(folder, ".png")
    content = (path / "cell_z9.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 2**15, 2**15) + content[24:29]
    (path / "cell_z9.png").write_bytes(
        content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    )
    return path


def with_header_word(path, place, value):
    with path.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack("<i", value))
    return path


def with_tag(path, name, value):
    with tifffile.TiffFile(path, mode="r+b") as file:
        for page in file.pages:
            page.tags[name].overwrite(value)
    return path


def with_huge_tiff(folder):
    path = write_tiff(folder / "v.tif", VOXELS[0], metadata=None)
    return with_tag(with_tag(path, "RowsPerStrip", 2**20), "ImageLength", 2**20)


def huge_hdf5(folder, **options):
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("raw", dtype="u1", **options)
    return folder / "v.h5"


def write_pages(path, voxels):
    """Write a stack whose directory entries lie between the sections."""
    with tifffile.TiffWriter(path) as file:
        for section in voxels:
            file.write(section, compression="zlib", metadata=None, contiguous=False)
    return path


def hdf5_of_another_file(folder):
    (folder / "secret").write_bytes(b"0" * 1000)
    with h5py.File(folder / "v.h5", "w") as file:
        file.create_dataset("raw", (10, 10, 10), "u1", external=[(str(folder / "secret"), 0, 1000)])
    return folder / "v.h5"


def two_arrays(folder):
    with h5py.File(folder / "v.h5", "w") as file:
        file["raw"], file["labels"] = VOXELS, VOXELS
        file["link"] = h5py.ExternalLink("other.h5", "/raw")
    return folder / "v.h5"


def n5_with_truncated_chunk(folder):
    path = write_n5(folder / "v.n5", VOXELS)
    truncate(path / "volumes/raw/1/1/0")
    return path / "volumes/raw"


def n5_without_array(folder):
    return write_n5(folder / "v.n5", VOXELS)


def empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def written(path, content):
    path.write_bytes(content)
    return path


# A message, in which … stands for any text, and what ends with it.
def without_finest(folder):
    grid = Grid((8, 8, 8), (0, 0, 0), (6, 6, 6))
    create_levels(folder / "v", [grid, grid.at((16, 16, 16))], "uint8")
    shutil.rmtree(folder / "v/s0")
    return folder / "v"


SOURCES = {
    "cell_z10.tif is incomplete: it has …": lambda f: with_truncated_section(f, ".tif"),
    "cell_z10.png cannot be decoded (…truncated…": lambda f: with_truncated_section(f, ".png"),
    "v.tif cannot be decoded (…ImageJ series metadata invalid or corrupted file…": lambda f: (
        truncated(write_tiff(f / "v.tif", VOXELS, imagej=True))
    ),
    "v.tif is incomplete: it has … bytes, but pixels of page …": lambda f: truncated(
        write_tiff(f / "v.tif", VOXELS, compression="zlib"), 0.98
    ),
    # Its directory of pages is broken, too: tifffile reads the pages before.
    "v.tif cannot be decoded (<tifffile.TiffPages… invalid page offset …": lambda f: truncated(
        write_pages(f / "v.tif", VOXELS), 0.6
    ),
    "h.h5 cannot be decoded (…truncated…": lambda f: truncated(write_hdf5(f / "h.h5", VOXELS)),
    "v.mrc cannot be decoded (…": lambda f: truncated(write_mrc(f / "v.mrc", VOXELS.view("i1"))),
    "volumes/raw: cannot read voxels …": n5_with_truncated_chunk,
    "cell_z9.png has 32768 × 32768 uint8 pixels by its header, more than its …": with_huge_png,
    "v.tif cannot be decoded (mmap length is greater than file size): it is…": with_huge_tiff,
    "m.mrc cannot be decoded (…": lambda f: with_header_word(
        write_mrc(f / "m.mrc", VOXELS.view("i1")), 0, 2**30
    ),
    "v.h5/raw has a shape of [1099511627776, 100, 100] by its header, which no…": lambda f: (
        huge_hdf5(f, shape=(2**40, 100, 100), chunks=(1, 100, 100))
    ),
    "a chunk of …v.h5/raw takes 4,294,967,295 bytes to decode at once…": lambda f: huge_hdf5(
        f, shape=(3, 65537, 65535), chunks=(1, 65537, 65535)
    ),
    "v.h5/raw refers to voxels in other files…": hdf5_of_another_file,
    "v.h5 holds 2 arrays of three axes (/labels, /raw): name one by --array": two_arrays,
    "name an array in it by --array (it holds volumes)": n5_without_array,
    "cell_z9.tif is not grayscale, but has the shape [70, 80, 3]…": lambda f: with_section(
        f, "cell_z9.tif", np.zeros((70, 80, 3), np.uint8)
    ),
    "most sections are 70 × 80 uint8, but not cell_z9.tif (70 × 81 uint8): crop…": lambda f: (
        with_section(f, "cell_z9.tif", np.zeros((70, 81), np.uint8))
    ),
    "but not cell_z9.tif (70 × 80 uint16): crop…": lambda f: with_section(
        f, "cell_z9.tif", np.zeros((70, 80), np.uint16)
    ),
    "cell_z9.tif holds 2 images: a folder of sections has…": lambda f: with_section(
        f, "cell_z9.tif", np.zeros((2, 70, 80), np.uint8)
    ),
    "the names cell_z10.tif and overview.tif differ by more than numbers…": lambda f: with_section(
        f, "overview.tif", VOXELS[0]
    ),
    "cell_z09.tif and cell_z9.tif have the same number: rename or remove one": lambda f: (
        with_section(f, "cell_z09.tif", VOXELS[0])
    ),
    "cell_z8.tif to cell_z20201130.tif do not count the sections…": lambda f: with_section(
        f, "cell_z20201130.tif", VOXELS[0]
    ),
    "empty holds no sections: it must have files with the suffixes .tif, .tiff, .png…": empty,
    "v.tif has the axes CYX…": lambda f: write_tiff(
        f / "v.tif", VOXELS[:3], imagej=True, metadata={"axes": "CYX"}
    ),
    "v.tif is compressed by LZW, which takes the package imagecodecs: pip install…": lambda f: (
        with_tag(write_tiff(f / "v.tif", VOXELS), "Compression", 5)
    ),
    "z8.tif to cell_z13.tif, those numbered 10 and 11 are missing: add…": without_sections,
    "is uint16, but raw is imported as uint8: give --range LOW HIGH, the values…": lambda f: (
        write_hdf5(f / "v.h5", VOXELS.astype("u2"))
    ),
    "is float32, but raw is imported as uint8…(most voxels in its middle are 2 to 2)": lambda f: (
        write_hdf5(f / "v.h5", np.where(VOXELS > 9, 2, np.nan).astype("f4"))
    ),
    "raw has the shape [1, 9, 8, 7], but must have three axes, z, y, x: save one…": lambda f: (
        write_zarr(f / "v.zarr", np.zeros((1, 9, 8, 7), "u1")) / "volumes/raw"
    ),
    "v: its finest level, s0, is missing: copy it, or name…--array, such as s1": without_finest,
    "v.tif stores white as 0 (MinIsWhite): save it with black as 0": lambda f: with_tag(
        write_tiff(f / "v.tif", VOXELS), "PhotometricInterpretation", 0
    ),
    "cell_z9.tif stores white as 0…": lambda f: (
        with_tag(sections(f) / "cell_z9.tif", "PhotometricInterpretation", 0).parent
    ),
    "v.czi is of no format that can be imported…": lambda f: written(f / "v.czi", b"ZISRAWFILE"),
    "v.tif cannot be decoded (not a TIFF file…": lambda f: written(f / "v.tif", b"nothing"),
    "v.h5 cannot be decoded (…file signature not found…": lambda f: written(f / "v.h5", b"nothing"),
    "none.tif does not exist (looked in …": lambda f: f / "none.tif",
}


@pytest.mark.parametrize("message", SOURCES)
def test_unsuitable_source_ends_with_one_message(tmp_path, message):
    path = SOURCES[message](tmp_path)
    pattern = ".*".join(map(re.escape, message.split("…")))
    with pytest.raises(InputError, match=pattern) as error:
        import_raw(open_source(path), tmp_path / "data/a", SIZE)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").glob("**/em"))
    assert not list((tmp_path / "data").glob("a/.importing/*"))


def run_import(*arguments):
    return main(["import", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--voxel-size", "8e-9", "8e-9", "8e-9"], "--voxel-size 8e-09 8e-09 8e-09 is not in nm"),
        (["--translation", "nan", "0", "0"], "--translation: translations are finite"),
        (["--range", "9", "3"], "--range 9 3 is no range"),
        (["--range", "0", "inf"], "--range 0 inf is no range: give two finite numbers, the lower"),
        (["--array", "raw"], "holds no arrays with names: leave --array out"),
        (["--fill-gaps"], "is no folder of sections: leave --fill-gaps out"),
        (["--crop", "3"], "an annotation takes --crop and --label: give both"),
        (["--unknown", "3"], "an annotation takes --crop and --label: give both"),
        (["--crop", "3", "--label", "a/b"], "--crop 3 --label a/b: give a number and a class"),
        (["--crop", "3", "--label", "pm", "--range", "0", "1"], "--range scales raw: leave it"),
        (["--crop", "3", "--label", "pm", "--unknown", "256"], "--unknown 256 is no value of ui"),
    ],
)  # fmt: skip
def test_unsuitable_arguments_are_named(tmp_path, capsys, arguments, message):
    path = write_tiff(tmp_path / "v.tif", VOXELS)
    assert run_import(path, tmp_path / "data/a", "--voxel-size", 8, 8, 8, *arguments) == 1
    assert f"error: {message}" in capsys.readouterr().err.replace(f"{path} ", "")
    assert not list(tmp_path.glob("data/a/*.zarr"))


def test_nothing_is_replaced(tmp_path, capsys):
    path = write_tiff(tmp_path / "v.tif", VOXELS)
    assert run_import(path, tmp_path / "a", "--voxel-size", 8, 8, 8) == 0
    assert run_import(path, tmp_path / "a", "--voxel-size", 8, 8, 8) == 1
    assert "exists already: remove it first, or choose another name" in capsys.readouterr().err


def test_a_crop_outside_of_raw_is_refused(tmp_path, capsys):
    path = write_tiff(tmp_path / "v.tif", VOXELS)
    size = ("--voxel-size", 8, 8, 8)
    assert run_import(path, tmp_path / "a", *size) == 0
    crop = ("--crop", 1, "--label", "mito", "--translation", 100, 0, 0)
    assert run_import(path, tmp_path / "a", *size, *crop) == 1
    assert "the crop from [96.0, -4.0, -4.0] to [144.0, 556.0, 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("voxels", "arguments", "message"),
    [
        (VOXELS.astype("f4"), (), "is float32, but labels are whole numbers"),
        (VOXELS.astype("i4") - 1, (), "holds -1, but ids are 0 or more"),
    ],
)
def test_labels_without_meaning_are_refused(tmp_path, capsys, voxels, arguments, message):
    path = write_hdf5(tmp_path / "v.h5", voxels)
    crop = ("--crop", 1, "--label", "mito")
    assert run_import(path, tmp_path / "a", "--voxel-size", 8, 8, 8, *crop) == 1
    assert message in capsys.readouterr().err


def test_nan_is_refused(tmp_path, capsys):
    voxels = VOXELS.astype("f4")
    voxels[3, 3, 3] = np.nan
    path = write_hdf5(tmp_path / "v.h5", voxels)
    assert run_import(path, tmp_path / "a", "--voxel-size", 8, 8, 8, "--range", 0, 255) == 1
    assert "v.h5/volumes/raw holds NaN" in capsys.readouterr().err


def test_a_killed_import_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    voxels = np.random.default_rng(0).integers(0, 256, (4, 300, 300), np.uint8)
    folder = write_sections(tmp_path / "sections", voxels)
    code = f"""
import os
from pathlib import Path
from cellmap_pipeline.data.importing import boxes, volume
from cellmap_pipeline.data.importing.sources.sections import SectionFolder

class Killer(SectionFolder):
    def read(self, start, stop):
        if start[0] == 2:
            os.kill(os.getpid(), 9)
        return super().read(start, stop)

boxes.MAX_BOX_BYTES = 64 * 300
volume.import_raw(Killer(Path({str(folder)!r})), Path({str(tmp_path / "a")!r}), (8, 8, 8))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert os.listdir(tmp_path / "a") == [".importing"]
    assert list((tmp_path / "a/.importing").rglob("s0/0/*"))
    monkeypatch.setattr(boxes, "MAX_BOX_BYTES", 64 * 300)
    path = import_raw(open_source(folder), tmp_path / "a", SIZE)
    level = Volume.open(path).levels[0]
    assert level.metadata.chunks == (1, 300, 300)
    assert np.array_equal(level.read((0, 0, 0), voxels.shape), voxels)
    assert os.listdir(tmp_path / "a") == ["a.zarr"]


def test_a_full_disk_is_named(tmp_path, monkeypatch, capsys):
    from cellmap_pipeline.data.importing import volume

    def fill(*_arguments):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device")

    monkeypatch.setattr(volume, "write_volume", fill)
    path = write_tiff(tmp_path / "v.tif", VOXELS)
    assert run_import(path, tmp_path / "a", "--voxel-size", 8, 8, 8) == 1
    assert "cannot be written (No space left on device): free space" in capsys.readouterr().err
    assert not (tmp_path / "a/.importing").exists()


def test_png_larger_than_the_limit_of_pillow_is_read(tmp_path):
    (tmp_path / "s").mkdir()
    iio.imwrite(tmp_path / "s/1.png", np.zeros((2, 2**27), np.uint8), compress_level=1)
    assert open_source(tmp_path / "s").shape == (1, 2, 2**27)
