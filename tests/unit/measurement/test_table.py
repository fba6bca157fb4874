"""The command `cellmap-pipeline measure` and its table."""

import json

import numpy as np
import pandas as pd
import pytest

from cellmap_pipeline.cli import main
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create

GRID = Grid((8, 4, 4), (100, 200, 300), (20, 20, 20))


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """A folder of results with labels of two crops, as the working directory."""
    monkeypatch.chdir(tmp_path)
    ids = np.zeros(GRID.shape, np.uint16)
    ids[2:7, 3:9, 4:10] = 1
    ids[10:15, 13:19, 14:20] = 300
    for name in ("a/crop7/mito", "a/crop7/er", "b/crop12/mito"):
        voxels = np.minimum(ids, 1) if name.endswith("er") else ids
        create(tmp_path / "results/segmentations" / name, GRID, "uint16").write(voxels).result()
    return tmp_path / "results/segmentations"


def test_all_labels_of_a_run_are_measured(labels, capsys):
    assert main(["measure", str(labels)]) == 0
    assert "wrote 5 objects of 3 labels to objects.csv" in capsys.readouterr().out
    table = pd.read_csv("objects.csv")
    assert list(table) == [
        "dataset", "crop", "label", "id", "voxels", "volume_um3", "surface_um2", "center_z_nm",
        "center_y_nm", "center_x_nm", "touches_border",
    ]  # fmt: skip
    named = list(zip(table.dataset, table.crop, table.label, table.id, strict=True))
    assert named == [
        ("a", 7, "er", 1), ("a", 7, "mito", 1), ("a", 7, "mito", 300), ("b", 12, "mito", 1),
        ("b", 12, "mito", 300),
    ]  # fmt: skip
    first = table.iloc[1]
    assert (first.voxels, first.volume_um3) == (180, 180 * 128 / 1e9)
    assert (first.center_z_nm, first.center_y_nm, first.center_x_nm) == (132, 222, 326)
    assert list(table.touches_border) == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("folder", "rows"), [("a", 3), ("a/crop7", 3), ("a/crop7/mito", 2), ("a/crop7/mito/s0", 2)]
)
def test_parts_of_a_folder_can_be_measured(labels, folder, rows):
    assert main(["measure", str(labels / folder), "--output", "t.csv"]) == 0
    table = pd.read_csv("t.csv")
    assert len(table) == rows
    assert set(table.crop) == {7} and set(table.dataset) == {"a"}
    assert set(table.label) <= {"mito", "er"}


@pytest.mark.parametrize("folder", ["a", "a/crop7", "a/crop7/mito"])
def test_groups_with_attributes_of_their_own_are_no_labels(labels, folder):
    """As crops of the challenge have them; groups of zarr 3 have such a file, too."""
    (labels / "a/.zattrs").write_text('{"cellmap": {}}')
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    (labels / "a/crop7/zarr.json").write_text(json.dumps(group))
    assert main(["measure", str(labels / folder), "--output", "new/t.csv"]) == 0
    assert len(pd.read_csv("new/t.csv")) == (2 if folder.endswith("mito") else 3)


def test_what_a_killed_job_left_is_no_label(labels):
    (labels / "a/crop7/er").rename(labels / "a/crop7/er.partial")
    assert main(["measure", str(labels)]) == 0
    assert set(pd.read_csv("objects.csv").label) == {"mito"}


def test_levels_are_no_labels(labels, capsys):
    """Of a label whose metadata are lost, they would be measured as one label each."""
    (labels / "a/crop7/mito/.zattrs").unlink()
    assert main(["measure", str(labels / "a/crop7/mito")]) == 1
    assert "mito holds no labels: give a label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none", "none does not exist (looked in"),
        ("empty", "empty holds no labels: give a label, or a folder with crop{id}/{label} such"),
        ("predicted", "predicted holds probabilities, not labels: give results/segmentations"),
        ("float", "float holds probabilities, not labels"),
    ],
)
def test_unsuitable_folders_are_named(tmp_path, monkeypatch, capsys, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    kind = {"cellmap_pipeline": {"kind": "probability"}}
    create(tmp_path / "predicted", GRID, "uint8", kind)
    create(tmp_path / "float", GRID, "float32")
    assert main(["measure", path]) == 1
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "objects.csv").exists()
