import shutil

import pytest

from cellmap_pipeline.check_inputs import check_inputs
from cellmap_pipeline.datasplit import SplitSettings
from cellmap_pipeline.demo import make_demo
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel, read_manifest

SETTINGS = SplitSettings(["mito", "pm"], (8.0, 8.0, 8.0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "data"
    make_demo(folder, size="small", progress=False)
    return folder


@pytest.fixture
def data(whole, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "data")


def look(data, settings=SETTINGS, rows=None):
    rows = rows or [r for r in read_manifest(data / "test_crop_manifest.csv") if r.label == "mito"]
    return check_inputs(data, {"a": (settings, None)}, {"a": rows})


def test_what_there_is(data):
    found = look(data)
    assert found["a"]["demo_cell-1/crop1"] == ["mito", "pm"]


def test_all_that_is_wrong_is_said_at_once(data):
    for level in data.glob("demo_cell-*/*.zarr/recon-1/em/fibsem-uint8/s*"):
        for chunk in level.rglob("*"):
            if chunk.is_file() and not chunk.name.startswith("."):
                chunk.unlink()
    with pytest.raises(InputError) as error:
        look(data)
    lines = str(error.value).splitlines()
    for crop in ("demo_cell-1/crop1", "demo_cell-2/crop4", "test crop 5", "test crop 6"):
        assert sum(line.startswith(crop) and "raw are missing" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: shutil.rmtree(data / "demo_cell-1"), "fibsem-uint8 does not exist"),
        (
            lambda data: next(data.glob("demo_cell-1/*/*/em/fibsem-uint8/.zattrs")).write_text("{"),
            "is not JSON",
        ),
        (
            lambda data: next(data.glob("demo_cell-1/*/*/labels/*/crop1/mito/.zattrs")).unlink(),
            "is not a volume",
        ),
    ],
)
def test_broken_volumes_are_named(data, spoil, message):
    spoil(data)
    with pytest.raises(InputError, match=message):
        look(data)


def test_a_class_that_nobody_annotates(data):
    with pytest.raises(InputError, match="training a: no crop .* voxel of golgi"):
        look(data, SplitSettings(["mito", "golgi"], (8.0, 8.0, 8.0)))


def test_a_crop_outside_its_volume(data):
    far = CropLabel(9, "demo_cell-1", "mito", Grid((8, 8, 8), (1e6, 0, 0), (32, 32, 32)))
    with pytest.raises(InputError, match="test crop 9: .*outside the volume"):
        look(data, rows=[far])


def test_levels_that_are_not_here_are_named_with_what_brings_them(data):
    levels = [
        next(data.glob("demo_cell-1/*/*/em/fibsem-uint8")) / "s0",
        next(data.glob("demo_cell-1/*/*/labels/*/crop1/mito")) / "s0",
    ]
    for level in levels:
        (level / ".zarray").unlink()
    with pytest.raises(InputError) as error:
        look(data)
    for level in levels:
        assert str(level.parent) in str(error.value)
    assert "s0: [8.0, 8.0, 8.0] nm" in str(error.value) and "fetch" in str(error.value)
