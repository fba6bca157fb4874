"""Imported data are read by the workflow and by cellmap-data, also real sections."""

import numpy as np
import pytest
import yaml

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.importing.sources.open_source import open_source
from cellmap_pipeline.data.importing.volume import import_label, import_raw
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import Volume
from tests.support.foreign_volumes import FORMATS, write_sections
from tests.support.spoiled import MANIFEST, TRAINING, Folder, check_run

SIZE = (8.0, 8.0, 8.0)
RAW = Grid(SIZE, (400, 0, 80), (64, 64, 130))
CROP = (40, 40, 40)
# Crop, its first voxel in the raw, and the format of its labels.
CROPS = ((1, (0, 0, 0), "HDF5"), (2, (24, 24, 30), "N5"), (3, (24, 24, 80), "TIFF stack"))


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """A run folder with imported raw and labels, as the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    voxels = rng.integers(1, 255, RAW.shape, np.uint8)
    source = open_source(write_sections(tmp_path / "sections", voxels, ".png"))
    import_raw(source, tmp_path / "data/a", SIZE, RAW.translation)
    for number, start, name in CROPS:
        ids = np.zeros(CROP, np.uint16)
        ids[4:30, 6:34, 8:32] = 7
        grid = RAW.box(start, CROP)
        for label in ("mito", "pm"):
            write, array = FORMATS[name]
            path = write(tmp_path / f"{label}{number}", ids)
            import_label(
                open_source(path, array), tmp_path / "data/a", number, label, SIZE, grid.translation
            )
    folder = Folder(tmp_path)
    (tmp_path / "config/training").mkdir(parents=True)
    config = {"data_root": "data", "test_crops": MANIFEST, "trainings": ["tiny"]}
    folder.config.write_text(yaml.safe_dump(config))
    folder.training.write_text(yaml.safe_dump(TRAINING))
    write_manifest(
        [CropLabel(9, "a", label, RAW.box((0, 0, 90), CROP)) for label in ("mito", "pm")],
        folder.manifest,
    )
    return folder


def test_imported_data_pass_the_check_of_a_run(imported, caplog):
    assert check_run(imported) == ("", "")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_cellmap_data_reads_imported_volumes(imported):
    from cellmap_data.image import CellMapImage

    for path in (imported.raw, imported.label("mito", 2)):
        for level in Volume.open(path).levels:
            shape = [16, 16, 16]
            image = CellMapImage(str(path), path.name, level.grid.voxel_size, shape, pad=True)
            center = {
                axis: t + (n / 2 + 1e-3) * v
                for axis, t, n, v in zip(
                    "zyx", level.grid.translation, shape, level.grid.voxel_size, strict=True
                )
            }
            theirs = image[center].numpy()
            assert np.array_equal(theirs, level.read((0, 0, 0), shape))


def test_real_sections_are_imported_at_their_place(shared, tmp_path):
    real = Volume.open(
        shared / "data/flyem/flyem_medulla-1/flyem_medulla-1.zarr/recon-1/em/fibsem-uint8"
    )
    fine, coarse = real.levels[:2]
    start, shape = (20, 40, 60), (48, 100, 120)
    voxels = fine.read(start, np.add(start, shape))
    place = fine.grid.box(start, shape)
    source = open_source(write_sections(tmp_path / "sections", voxels))
    path = import_raw(source, tmp_path / "a", place.voxel_size, place.translation)
    ours = Volume.open(path)
    assert ours.levels[0].grid == place
    assert np.array_equal(ours.levels[0].read((0, 0, 0), shape), voxels)
    # The published level is of means, too.
    grid = ours.levels[1].grid
    offset = coarse.grid.offset(grid)
    assert offset == (10, 20, 30)
    theirs = coarse.read(offset, np.add(offset, grid.shape)).astype(int)
    assert np.abs(ours.levels[1].read((0, 0, 0), grid.shape) - theirs).max() <= 1
