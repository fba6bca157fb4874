"""What of a teacher's predictions is kept, and where nothing is."""

import json
from dataclasses import astuple

import numpy as np
import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.patches.crops import CropData, open_taught
from cellmap_pipeline.prediction.pseudo_labels import pseudo_labels, write_pseudo_labels
from cellmap_pipeline.prediction.teacher import hidden_extents

RAW = Grid((8, 8, 8), (0, 0, 0), (48, 48, 80))
# Around each training crop, 8 voxels are predicted.
TRAINS, ALSO_TRAINS, VALIDATES, TESTS = (
    RAW.box(start, (16, 16, 16)) for start in ((16, 16, 16), (16, 16, 50), (16, 30, 30), (0, 0, 0))
)
AROUND = {1: RAW.box((8, 8, 8), (32, 32, 32)), 2: RAW.box((8, 8, 42), (32, 32, 32))}


@pytest.mark.parametrize(
    ("at_least", "expected"),
    [
        (0.95, [0, 0, 255, 255, 255, 1, 1]),
        (0.5001, [0, 0, 0, 0, 1, 1, 1]),
        (1, [0, 255, 255, 255, 255, 255, 1]),
    ],
)
def test_only_confident_voxels_are_known(at_least, expected):
    probabilities = np.array([0, 12, 13, 127, 128, 243, 255], np.uint8)
    assert pseudo_labels(probabilities, at_least).tolist() == expected


@pytest.mark.parametrize("at_least", [0.6, 0.8, 0.9, 0.95, 0.99, 1])
def test_presence_and_absence_are_equally_sure(at_least):
    """Also at probabilities that are thresholds themselves, such as 51 of 255 at 0.8."""
    probabilities = np.arange(256, dtype=np.uint8)
    labels = pseudo_labels(probabilities, at_least)
    assert np.array_equal(labels == 0, (labels == 1)[::-1])
    assert (labels[probabilities / 255 >= at_least] == 1).all()


@pytest.fixture
def crops(tmp_path):
    """Crops of one dataset with empty ground truth, and predictions around those that train."""
    create(tmp_path / "a.zarr/raw", RAW, "uint8").write(np.full(RAW.shape, 9, np.uint8)).result()
    found = {}
    for number, grid in ((1, TRAINS), (2, ALSO_TRAINS), (3, VALIDATES)):
        folder = tmp_path / f"a.zarr/crop{number}"
        folder.mkdir()
        create(folder / "mito", grid, "uint8").write(np.zeros(grid.shape, np.uint8)).result()
        found[number] = CropData(tmp_path / "a.zarr/raw", folder, ["mito"], (8, 8, 8))
    return {"train": [found[1], found[2]], "validate": [found[3]]}


def predict(tmp_path, number, label, values):
    path = tmp_path / f"predictions/a/crop{number}/{label}"
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.broadcast_to(values, AROUND[number].shape).astype(np.uint8)
    create(path, AROUND[number], "uint8").write(voxels).result()


def write(crops, tmp_path, classes=("mito", "pm"), test_crops=(TESTS,)):
    hidden = hidden_extents(crops, {"a": list(map(astuple, test_crops))})
    write_pseudo_labels(
        crops["train"], hidden, classes, 0.95, tmp_path / "predictions", tmp_path / "pseudo"
    )
    return json.loads((tmp_path / "pseudo/summary.json").read_text())


def test_nothing_is_known_within_annotated_and_test_crops(crops, tmp_path):
    for number in (1, 2):
        predict(tmp_path, number, "mito", 255)
        predict(tmp_path, number, "pm", 100)
    summary = write(crops, tmp_path)
    for crop in open_taught(crops["train"], tmp_path / "pseudo"):
        (label,) = crop.pseudo_labels.values()
        ids, known = label.read(crop.grid)
        expected = np.ones(crop.grid.shape, bool)
        for hidden in (TRAINS, ALSO_TRAINS, VALIDATES, TESTS):
            start, stop = crop.grid.index_box(hidden)
            expected[
                tuple(slice(max(0, a), max(0, b)) for a, b in zip(start, stop, strict=True))
            ] = 0
        assert np.array_equal(known, expected) and (ids[known] == 1).all()
        counts = summary[f"a/{crop.label_folder.name}"]
        assert counts["mito"]["present"] == expected.sum() and counts["mito"]["absent"] == 0
        assert counts["pm"]["unknown"] == counts["mito"]["present"] + counts["mito"]["unknown"]
    # A voxel of each of the others is near enough to be predicted.
    assert not LabelVolume.open(tmp_path / "pseudo/a/crop1/mito").read(VALIDATES)[1].any()


def own_split_crop(tmp_path, raw, labels):
    """Return a crop whose labels lie in another container than its raw."""
    folder = tmp_path / labels
    create(folder / "mito", VALIDATES, "uint8").write(np.ones(VALIDATES.shape, "u1")).result()
    return CropData(tmp_path / raw, folder, ["mito"], (8, 8, 8))


@pytest.mark.parametrize("link", [False, True])
def test_crops_of_the_same_raw_are_hidden_whatever_their_dataset_is_called(crops, tmp_path, link):
    raw = "a.zarr/raw"
    if link:
        (tmp_path / "b.zarr").symlink_to(tmp_path / "a.zarr")
        raw = "b.zarr/raw"
    crops["validate"] = [own_split_crop(tmp_path, raw, "mine.zarr/crop9")]
    hidden = hidden_extents(crops, {"a": [astuple(TESTS)]})
    assert hidden == dict.fromkeys(["a/crop1", "a/crop2"], [TRAINS, ALSO_TRAINS, VALIDATES, TESTS])
    # Test crops are of the dataset of the raw, validation crops of any.
    crops["train"] = [own_split_crop(tmp_path, raw, "mine.zarr/crop8")]
    hidden = hidden_extents(crops, {"a": [astuple(TESTS)], "z": [astuple(ALSO_TRAINS)]})
    assert hidden == {"mine/crop8": [VALIDATES, VALIDATES, TESTS]}


def test_crops_of_other_raw_are_not_hidden(crops, tmp_path):
    create(tmp_path / "b.n5/raw", RAW, "uint8")
    crops["validate"] = [own_split_crop(tmp_path, "b.n5/raw", "mine.zarr/crop9")]
    hidden = hidden_extents(crops, {"b": [astuple(TESTS)]})
    assert hidden == dict.fromkeys(["a/crop1", "a/crop2"], [TRAINS, ALSO_TRAINS])


def test_crops_of_the_same_name_are_refused(crops, tmp_path):
    crops["train"].append(own_split_crop(tmp_path, "a.zarr/raw", "other/a.zarr/crop1"))
    with pytest.raises(InputError, match="two crops to train on that are called a/crop1, .* renam"):
        hidden_extents(crops, {})


def test_crops_around_which_nothing_is_known_are_left_out(crops, tmp_path, caplog):
    predict(tmp_path, 1, "mito", 128)
    predict(tmp_path, 2, "mito", 0)
    with caplog.at_level("INFO"):
        first = write(crops, tmp_path, ["mito"])
    assert [c.label_folder.name for c in open_taught(crops["train"], tmp_path / "pseudo")] == [
        "crop2"
    ]
    known = first["a/crop2"]["mito"]["absent"]
    assert f"mito: {known:,} voxels are known, around 1 crops, 0.00 %" in caplog.text
    # A training starts over with other pseudo-labels, of which the digest tells.
    mixed = np.zeros(AROUND[2].shape)
    mixed[0, 0, 0], mixed[0, 0, 1] = 255, 0
    predict(tmp_path, 2, "mito", mixed)
    one = write(crops, tmp_path, ["mito"])["a/crop2"]["mito"]
    mixed[0, 0, 0], mixed[0, 0, 1] = 0, 255
    predict(tmp_path, 2, "mito", mixed)
    other = write(crops, tmp_path, ["mito"])["a/crop2"]["mito"]
    assert one["present"] == other["present"] == 1 and one["sha256"] != other["sha256"]


def test_a_teacher_that_is_sure_of_nothing_is_an_error(crops, tmp_path):
    for number in (1, 2):
        predict(tmp_path, number, "mito", 128)
    with pytest.raises(
        InputError, match=r"around no crop .* \(`at_least: 0.95`\) .*: lower `at_least`"
    ):
        write(crops, tmp_path, ["mito"])
    assert not (tmp_path / "pseudo").exists()
