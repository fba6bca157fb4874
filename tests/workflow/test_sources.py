"""Several trainings, averages, composed labels and external predictions in one run."""

import csv
import json
import shutil
from itertools import product

import numpy as np
import pytest
import yaml

from cellmap_pipeline.data.crops import ValidationCrop
from cellmap_pipeline.data.datasplit_csv import read_datasplit
from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume, create

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(finished_run):
    """A run of two finished trainings, without any later results."""
    made = finished_run()
    results = made.folder / "results"
    for name in ("tiny/validation", "tiny/predictions", "segmentations", "figures"):
        shutil.rmtree(results / name)
    links = [path for path in made.folder.iterdir() if path.is_symlink()]
    for path in [made.folder / "submission.zip", *links, *results.glob("*.csv")]:
        path.unlink()
    made.train("other", learning_rate=2e-2)  # with the same split
    made.configure(trainings=["tiny", "other"])
    made.snakemake("results/other/model.ckpt")
    return made


@pytest.fixture(autouse=True)
def in_run_folder(run, monkeypatch):
    """Change to the run's folder, to which its paths are relative."""
    monkeypatch.chdir(run.folder)


def read_selection(run):
    with (run.folder / "results/selection.csv").open() as file:
        return list(csv.DictReader(file))


def test_selection_stops_before_test_crops_are_predicted(run):
    planned = run.planned("selection.csv")
    assert planned["predict_validation"] == planned["validate"] == 2
    assert "predict" not in planned and "segment" not in planned
    run.snakemake("selection.csv")
    rows = read_selection(run)
    kinds = {(row["label"], row["voxel_size"], row["training"]) for row in rows}
    asked = [("nuc", "8 8 8"), *product(("mito", "pm"), ("8 8 8", "3.48 4 4"))]
    assert kinds == {(*kind, name) for kind in asked for name in ("tiny", "other")}
    assert all(row["score"] for row in rows)
    chosen = [(row["label"], row["voxel_size"]) for row in rows if row["chosen"] == "yes"]
    assert len(chosen) == len(set(chosen)) == 5


def test_printed_selection_skips_unused_predictions(run):
    log = (run.folder / "results/logs/select.log").read_text()
    (line,) = [line for line in log.splitlines() if line.startswith("select: ")]
    kept = (run.folder / "config/config.yaml").read_text()
    losers = {row["training"] for row in read_selection(run)} - {
        row["training"] for row in read_selection(run) if row["chosen"] == "yes"
    }
    run.configure(submission=yaml.safe_load(line))
    planned = run.planned("submission.zip")
    rows = read_manifest(yaml.safe_load(kept)["test_crops"])
    assert planned["segment"] == len(rows) == 5
    assert planned["predict"] <= 4 - 2 * len(losers)
    assert "train" not in planned
    (run.folder / "config/config.yaml").write_text(kept)


def write_perfect_predictions(run, name, crops, classes):
    """Write external predictions that equal the ground truth."""
    for crop in crops:
        for label in classes:
            volume = LabelVolume.open(crop.folder / label)
            grid = volume.volume.levels[0].grid
            path = run.folder / name / crop.dataset / f"crop{crop.number}" / label
            path.parent.mkdir(parents=True, exist_ok=True)
            ids, _ = volume.read(grid)
            create(path, grid, "uint8").write(np.where(ids > 0, 255, 0).astype(np.uint8)).result()


def test_external_predictions_are_selected(run, small_data):
    split = read_datasplit(run.folder / "results/tiny/datasplit.csv", None)
    crops = [ValidationCrop.of(folder) for usage, _, folder, _ in split if usage == "validate"]
    write_perfect_predictions(run, "external", crops, ["mito", "pm"])
    rows = read_manifest(small_data / "test_crop_manifest.csv")
    for row in rows:
        path = run.folder / f"external/{row.dataset}/crop{row.crop}/{row.label}"
        path.parent.mkdir(parents=True, exist_ok=True)
        create(path, row.grid, "uint8").write(np.full(row.grid.shape, 255, np.uint8)).result()
    template = "external/{dataset}/crop{crop}/{label}"
    run.configure(predictions={"nnunet": {"path": template, "classes": ["mito", "pm"]}})
    run.snakemake("selection.csv", "submission.zip")
    best = {
        (r["label"], r["voxel_size"]): r["training"]
        for r in read_selection(run)
        if r["chosen"] == "yes"
    }
    assert best.pop(("nuc", "8 8 8")) in ("tiny", "other")
    assert set(best.values()) == {"nnunet"}
    found = json.loads((run.folder / "results/nnunet/validation/scores.json").read_text())
    assert found["classes"]["pm"]["score"] > 0.95
    for row in rows:
        if row.label == "pm":
            path = run.folder / f"results/segmentations/{row.dataset}/crop{row.crop}/pm"
            assert Volume.open(path).levels[0].array.read().result().all()


def test_missing_external_predictions_end_the_first_job(run):
    shutil.move(run.folder / "external/demo_cell-1/crop5/pm", run.folder / "away")
    run.configure(submission={"classes": ["pm"]})
    done = run.snakemake("submission.zip", check=False)
    assert done.returncode != 0
    assert "labels do not exist, such as external/demo_cell-1/crop5/pm" in done.stdout
    run.configure(predictions={}, submission={})


def test_averages_are_tuned_as_a_source(run):
    run.configure(submission={"select": {"pm": ["tiny", "other"]}, "classes": ["pm"]})
    run.snakemake("submission.zip")
    found = json.loads((run.folder / "results/average/validation/scores.json").read_text())
    (pm,) = found["classes"].values()
    assert len(pm["voxel_sizes"]) == 2
    log = (run.folder / "results/logs/segment/demo_cell-1/crop5/pm.log").read_text()
    assert "pm from tiny, other, with the settings tuned for average" in log


def test_label_composed_of_parts_and_label_without_a_source(run, small_data):
    rows = [r for r in read_manifest(small_data / "test_crop_manifest.csv") if r.crop == 5]
    (run.folder / "classes.csv").write_text('nuc,1,""\nmito,2,""\npm,3,""\ncell,9,"1,2,3"\n')
    lines = (small_data / "test_crop_manifest.csv").read_text().splitlines()
    more = [lines[1].replace(",nuc,", f",{label},") for label in ("cell", "golgi")]
    (run.folder / "manifest.csv").write_text("\n".join([*lines, *more]) + "\n")
    run.configure(
        trainings=["tiny"],
        test_crops="manifest.csv",
        ground_truth=None,
        class_table="classes.csv",
        submission={"classes": ["cell", "golgi"], "missing": "empty"},
    )
    run.snakemake("submission.zip", "selection.csv")
    made = run.folder / "results/segmentations/demo_cell-1/crop5"
    (level,) = Volume.open(made / "golgi").levels
    assert level.grid == rows[0].grid and not level.array.read().result().any()
    assert [row["training"] for row in read_selection(run)] == ["tiny:parts"]
    parts = run.folder / "results/tiny/predictions/demo_cell-1/crop5"
    assert {path.name for path in parts.iterdir() if path.is_dir()} >= {"nuc", "mito", "pm"}
    assert (made / "cell").is_dir()
    run.configure(submission={"classes": ["cell", "golgi"]})
    run.snakemake("submission.zip")
    log = (run.folder / "results/logs/package.log").read_text()
    assert "crop5/golgi: the label is missing" in log


def test_ground_truth_of_test_crops_is_read_only_for_scores(finished_run):
    """The submission is the same if the ground truth is unreadable."""
    run = finished_run()
    expected = (run.folder / "submission.zip").read_bytes()
    run.remove_results()
    for chunk in (run.folder / run.setting("ground_truth")).rglob("*"):
        if chunk.is_file() and not chunk.name.startswith("."):
            chunk.write_bytes(b"no chunk")
    run.snakemake("submission.zip")
    assert (run.folder / "submission.zip").read_bytes() == expected
    failed = run.snakemake("scores.json", check=False)
    assert failed.returncode != 0 and "cannot be read (" in failed.stdout
