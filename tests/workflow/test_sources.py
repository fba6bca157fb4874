"""Several trainings, an average, a composed label and external predictions in one run."""

import csv
import json
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import yaml

from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.datasplit_csv import read_datasplit
from cellmap_pipeline.data.manifest import read_manifest, write_manifest
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume, create

pytestmark = pytest.mark.slow
CLASS_TABLE = 'nuc,1,""\nmito,2,""\npm,3,""\ncell,9,"1,2,3"\n'
CROP = "demo_cell-1/crop5"


def write_manifests(run):
    """Let crop 5 have five labels, and crop 6, which has other voxels, one."""
    rows = read_manifest(run.folder / "data/test_crop_manifest.csv")
    nuc, mito, pm = (row for row in rows if row.crop == 5)
    (small,) = (row for row in rows if row.crop == 6 and row.label == "mito")
    more = [replace(nuc, label=label) for label in ("cell", "golgi")]
    write_manifest([nuc, mito, pm, *more, small], run.folder / "manifest.csv")
    (run.folder / "classes.csv").write_text(CLASS_TABLE)


def spoil_ground_truth(run):
    """Let no chunk of the test crops' ground truth be readable; all labels are there."""
    crop = run.folder / "data/ground_truth.zarr/crop5"
    for label in ("cell", "golgi"):
        shutil.copytree(crop / "nuc", crop / label)
    for chunk in crop.parent.rglob("*"):
        if chunk.is_file() and not chunk.name.startswith("."):
            chunk.write_bytes(b"no chunk")


def write_external_predictions(run):
    """Predict mito as the ground truth in validation crops, and everywhere in test crops."""
    split = read_datasplit(run.folder / "results/tiny/datasplit.csv", None)
    crops = [ValidationCrop.of(folder) for usage, _, folder, _ in split if usage == "validate"]
    for crop in crops:
        volume = LabelVolume.open(crop.folder / "mito")
        grid = volume.volume.levels[0].grid
        ids, _ = volume.read(grid)
        write_prediction(run, crop.dataset, crop.number, grid, ids > 0)
    for row in read_manifest(run.folder / "manifest.csv"):
        if row.label == "mito":
            write_prediction(run, row.dataset, row.crop, row.grid, np.ones(row.grid.shape))


def write_prediction(run, dataset, number, grid, mask):
    path = run.folder / f"external/{dataset}/crop{number}/mito"
    path.parent.mkdir(parents=True)
    create(path, grid, "uint8").write(np.where(mask, 255, 0).astype(np.uint8)).result()


@pytest.fixture(scope="module")
def run(finished_run):
    """A run that makes each label in another way, without readable ground truth of test crops."""
    made = finished_run()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        write_manifests(made)
        spoil_ground_truth(made)
        write_external_predictions(made)
    (made.folder / "submission.zip").unlink()
    made.train("other", classes=["nuc", "pm"], learning_rate=2e-2)
    made.configure(
        trainings=["tiny", "other"],
        test_crops="manifest.csv",
        class_table="classes.csv",
        predictions={
            "nnunet": {"path": "external/{dataset}/crop{crop}/{label}", "classes": ["mito"]}
        },
        submission={"select": {"pm": ["tiny", "other"]}, "missing": "empty"},
    )
    made.snakemake("submission.zip", "selection.csv")
    return made


@pytest.fixture(autouse=True)
def in_run_folder(run, monkeypatch):
    """Change to the run's folder, to which its paths are relative."""
    monkeypatch.chdir(run.folder)


def read_selection(run):
    with (run.folder / "results/selection.csv").open() as file:
        return list(csv.DictReader(file))


def chosen(run, label):
    return {row["training"] for row in read_selection(run) if
            row["label"] == label and row["chosen"] == "yes"}  # fmt: skip


def read_label(label):
    """Return the grid and the voxels of a submitted label of crop 5."""
    (level,) = Volume.open(f"results/segmentations/{CROP}/{label}").levels
    return level.grid, level.array.read().result()


def test_selection_stops_before_test_crops_are_predicted(run):
    planned = run.planned("--forceall", "selection.csv")
    assert planned["predict_validation"] == 2
    assert planned["validate"] == 4
    assert "predict" not in planned and "segment" not in planned


def test_selection_has_the_scores_of_all_sources(run):
    rows = read_selection(run)
    asked = {("cell", "8 8 8", "tiny:parts")}
    asked |= set(product(("nuc", "pm"), ("8 8 8",), ("tiny", "other")))
    asked |= set(product(("mito",), ("8 8 8", "3.48 4 4"), ("tiny", "nnunet")))
    assert {(row["label"], row["voxel_size"], row["training"]) for row in rows} == asked
    # No crop annotates cell.
    assert all(row["score"] for row in rows if row["label"] != "cell")
    # Too few crops validate to know an error, so a choice between similar scores is open.
    nuc = {row["training"]: float(row["shared_score"]) for row in rows if row["label"] == "nuc"}
    assert {row["open"] for row in rows if row["label"] == "nuc"} == {"yes"}
    best = max(nuc, key=nuc.get)
    assert best in chosen(run, "nuc")
    log = (run.folder / f"results/logs/segment/{CROP}/nuc.log").read_text()
    assert f"with the settings tuned for {best}" in log


def test_printed_selection_skips_unused_predictions(run, tmp_path):
    log = (run.folder / "results/logs/select.log").read_text()
    (line,) = [line for line in log.splitlines() if line.startswith("select: ")]
    copy = replace(run, folder=tmp_path / "copy")
    shutil.copytree(run.folder, copy.folder, symlinks=True)
    for name in ("tiny/predictions", "other/predictions", "segmentations"):
        shutil.rmtree(copy.folder / "results" / name)
    (copy.folder / "submission.zip").unlink()
    assert copy.planned("submission.zip")["predict"] == 3
    copy.configure(submission=yaml.safe_load(line) | {"missing": "empty"})
    planned = copy.planned("submission.zip")
    # Of crop 6, only mito is submitted, which nnunet predicts better.
    assert planned["predict"] == 2
    assert planned["segment"] == 6
    assert "train" not in planned


def test_external_predictions_are_selected(run):
    assert chosen(run, "mito") == {"nnunet"}
    found = json.loads((run.folder / "results/nnunet/validation/scores.json").read_text())
    assert found["classes"]["mito"]["score"] > 0.95
    grid, voxels = read_label("mito")
    assert grid == Volume.open(f"external/{CROP}/mito").levels[0].grid
    assert voxels.all()


def test_averages_are_tuned_as_a_source(run):
    found = json.loads((run.folder / "results/average/validation/scores.json").read_text())
    (pm,) = found["classes"].values()
    assert len(pm["voxel_sizes"]) == 1
    assert chosen(run, "pm") == {"tiny", "other"}
    log = (run.folder / f"results/logs/segment/{CROP}/pm.log").read_text()
    assert "pm from tiny, other, with the settings tuned for average" in log


def test_label_is_composed_of_parts(run):
    assert chosen(run, "cell") == {"tiny:parts"}
    parts = run.folder / f"results/tiny/predictions/{CROP}"
    assert {path.name for path in parts.iterdir() if path.is_dir()} >= {"nuc", "mito", "pm"}
    grid, _ = read_label("cell")
    assert grid == read_label("nuc")[0]


def test_label_without_a_source_is_empty_or_missing(run):
    grid, voxels = read_label("golgi")
    assert grid == read_label("nuc")[0] and not voxels.any()
    kept = (run.folder / "config/config.yaml").read_text()
    run.configure(submission={"select": {"pm": ["tiny", "other"]}})
    run.snakemake("submission.zip")
    log = (run.folder / "results/logs/package.log").read_text()
    assert "crop5/golgi: the label is missing" in log
    (run.folder / "config/config.yaml").write_text(kept)


def test_ground_truth_of_test_crops_is_read_only_for_scores(run):
    """The submission was made while the ground truth was unreadable."""
    assert (run.folder / "submission.zip").is_file()
    failed = run.snakemake("results/scores.json", check=False)
    assert failed.returncode != 0 and "cannot be read (" in failed.stdout
