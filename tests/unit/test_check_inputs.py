import json
import shutil

import pytest
import pytorch_lightning
import torch
from networks import tiny_task

from cellmap_pipeline.check_inputs import check_inputs
from cellmap_pipeline.datasplit import SplitSettings
from cellmap_pipeline.demo import make_demo
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel, read_manifest
from cellmap_pipeline.stores import ABSENT

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


def test_a_truth_of_which_nothing_can_be_scored(data):
    rows = [r for r in read_manifest(data / "test_crop_manifest.csv") if r.label == "mito"]
    trainings = {"a": (SETTINGS, None)}
    check_inputs(data, trainings, {"a": rows}, data / "ground_truth.zarr")
    check_inputs(data, trainings, {}, data / "ground_truth.zarr")
    # Labels in the form of the training crops: groups with levels in them.
    groups = next(data.glob("demo_cell-1/*.zarr/recon-1/labels/groundtruth"))
    crop = next(groups.glob("crop*"))
    rows = [CropLabel(int(crop.name[4:]), "demo_cell-1", "mito", rows[0].grid)]
    with pytest.raises(InputError, match=rf"ground_truth: .* no array .* of {crop.name} .* s0"):
        check_inputs(data, trainings, {"a": rows}, groups)


def test_checkpoints_to_predict_with(data, tmp_path):
    task = tiny_task()
    content = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": pytorch_lightning.__version__,
    }
    torch.save(content, tmp_path / "model.ckpt")
    rows = [r for r in read_manifest(data / "test_crop_manifest.csv") if r.label == "mito"]

    def look_with(name, **changes):
        expected = {"classes": ["mito"], "targets": {}, "voxel_size": [8, 8, 8]} | changes
        checkpoints = {"a": (tmp_path / name, expected)}
        check_inputs(data, {"a": (SETTINGS, None)}, {"a": rows}, None, checkpoints)

    look_with("model.ckpt")
    with pytest.raises(InputError, match=r"training a: inference.checkpoint: .*model.ckpt was tra"):
        look_with("model.ckpt", voxel_size=[4, 4, 4])
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(InputError, match="text.ckpt is not a checkpoint"):
        look_with("text.ckpt")


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


def test_labels_that_cannot_be_read_are_named_at_once(data):
    broken = sorted(data.glob("demo_cell-*/*/*/labels/*/crop*/mito"))[:2]
    (broken[0] / ".zattrs").write_text("{")
    for array in broken[1].glob("s*/.zarray"):
        array.unlink()
    with pytest.raises(InputError) as error:
        look(data)
    first, second = sorted(str(error.value).splitlines())
    assert first.startswith(f"training a: {broken[0]}/.zattrs is not JSON")
    assert second.startswith(f"training a: {broken[1]}: none of its levels is here")
    assert "docs/fetching.md" in second


def test_rows_of_an_own_split_that_cannot_be_read_are_named_at_once(data, tmp_path):
    raw = next(data.glob("demo_cell-1/*/*/em/fibsem-uint8"))
    own = tmp_path / "own.csv"
    own.write_text(f"train,{raw},{data}/none/crop1\nvalidate,{raw},{data}/none/crop2\n")
    with pytest.raises(InputError) as error:
        check_inputs(data, {"a": (SETTINGS, own)}, {})
    for i, line in enumerate(str(error.value).splitlines(), 1):
        assert line.startswith(f"training a: labels {data}/none/crop{i}: the folder does not exist")
    assert i == 2


def test_labels_need_no_chunks(data):
    """Background is not stored."""
    chunks = list(data.glob("demo_cell-*/*/*/labels/*/crop*/pm/s*/*/*/*"))
    assert chunks
    for chunk in chunks:
        chunk.unlink()
    assert look(data)["a"]["demo_cell-1/crop1"] == ["mito", "pm"]


def test_a_finer_level_does_in_the_place_of_one_that_is_not_here(data):
    for volume in (
        next(data.glob("demo_cell-1/*/*/em/fibsem-uint8")),
        next(data.glob("demo_cell-1/*/*/labels/*/crop1/mito")),
    ):
        (volume / "s1/.zarray").unlink()
    settings = SplitSettings(["mito", "pm"], (16.0, 16.0, 16.0))
    assert "demo_cell-1/crop1" in look(data, settings)["a"]


def test_raw_that_the_source_lacks(data):
    """Some of it is no error; none at all under a crop is."""
    for recon in data.glob("demo_cell-1/*/recon-1"):
        array = recon / "em/fibsem-uint8/s0"
        separator = json.loads((array / ".zarray").read_text()).get("dimension_separator", ".")
        here = [p for p in array.rglob("*") if p.is_file() and not p.name.startswith(".")]
        names = [str(path.relative_to(array)) for path in here]
        assert len(names) > 1 and separator in names[0]
        here[0].unlink()
        (array / ABSENT).write_text(json.dumps(names))
        assert "demo_cell-1/crop1" in look(data)["a"]
        for path in here[1:]:
            path.unlink()
    with pytest.raises(InputError, match="demo_cell-1/crop1: .*the source has no raw at voxels"):
        look(data)
