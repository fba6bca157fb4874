"""The whole workflow on the small demo data, and what changed configurations rerun."""

import json
import re
import shutil

import numpy as np
import pytest
from ome_zarr.io import parse_url
from ome_zarr.reader import Label, Reader
from yaozarrs import validate_zarr_store

from cellmap_pipeline.cli import main
from cellmap_pipeline.data.datasplit_csv import read_datasplit
from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.submission.check import check

RETRAINED = {
    "train", "predict_validation", "validate", "predict", "select", "segment", "package", "score"
}  # fmt: skip


@pytest.fixture(scope="module")
def run(finished_run):
    """A finished run."""
    return finished_run()


@pytest.fixture
def changed(run):
    """The finished run; its configuration is restored afterwards."""
    kept = run.folder / "kept"
    shutil.copytree(run.folder / "config", kept)
    yield run
    shutil.rmtree(run.folder / "config")
    kept.rename(run.folder / "config")


def stages(planned):
    """Return the rules of planned jobs, without those of figures and reports."""
    return {
        rule for rule in planned
        if rule in RETRAINED | {"check_inputs", "split", "folds", "datasplit"}
    }  # fmt: skip


def test_submission_matches_the_manifest(run, small_data):
    rows = read_manifest(small_data / "test_crop_manifest.csv")
    assert {row.label for row in rows} == {"nuc", "mito", "pm"}
    assert check(run.folder / "submission.zip", rows) == []


def test_results_name_no_absolute_path(run):
    """The run was made in a folder of this name, and then copied."""
    named = {
        str(path.relative_to(run.folder / "results"))
        for path in (run.folder / "results").rglob("*")
        if path.is_file() and b"/finished_run" in path.read_bytes()
    }
    assert named <= {"report.html", "logs/check_inputs.log"}


def test_scores_and_report_are_written(run):
    scores = json.loads((run.folder / "scores.json").read_text())
    assert 0 <= scores["overall_score"] <= 1
    assert set(scores["label_scores"]) >= {"nuc", "mito", "pm"}
    assert scores["rules"] == "2026-07"
    board = (run.folder / "leaderboard.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in board] == ["name", "submission", "tiny"]
    for name in ("cases.jpg", "data.jpg", "leaderboard.png", "resources.png", "scores.png"):
        assert (run.folder / f"results/figures/{name}").stat().st_size > 10_000
    page = (run.folder / "results/figures/run.html").read_text()
    assert "learning_rate: 0.01" in page and "test_crops: " in page and "commit" in page
    assert "<html" in (run.folder / "report.html").read_text()[:1000]
    assert "flowchart" in (run.folder / "dag.mmd").read_text()


def test_predictions_are_on_the_grids_of_the_manifest(run, small_data):
    for row in read_manifest(small_data / "test_crop_manifest.csv"):
        folder = run.folder / f"results/tiny/predictions/{row.dataset}/crop{row.crop}"
        (level,) = Volume.open(folder / row.label).levels
        assert level.grid == row.grid
        assert level.metadata.stored["dtype"] == "|u1"
        if row.label == "mito":
            (affinity,) = Volume.open(folder / "mito_affinity_0_0_32nm").levels
            assert affinity.grid == row.grid


def test_volumes_are_ome_ngff(run, small_data):
    results = run.folder / "results"
    volumes = {
        "raw": list(small_data.glob("*/*.zarr/recon-1/em/fibsem-uint8")),
        "labels": list(small_data.glob("*/*.zarr/recon-1/labels/groundtruth/crop*/*/")),
        "predictions": list(results.glob("tiny/predictions/*/crop*/*/")),
        "validation": list(results.glob("tiny/validation/predictions/*/crop*/*/")),
        "segmentations": list(results.glob("segmentations/*/crop*/*/")),
    }
    for kind, paths in volumes.items():
        assert paths, kind
        for path in paths:
            validate_zarr_store(str(path))
            # Read as napari's plugin does.
            node = next(iter(Reader(parse_url(str(path)))()))
            finest = Volume.open(path).levels[0]
            steps = node.metadata["coordinateTransformations"][0]
            assert steps == [
                {"type": "scale", "scale": list(finest.grid.voxel_size)},
                {"type": "translation", "translation": list(finest.grid.translation)},
            ]
            voxels = finest.read((0, 0, 0), finest.grid.shape)
            assert np.array_equal(np.asarray(node.data[0]), voxels)
            assert finest.metadata.stored["dimension_separator"] == "/"
            # Segmentations are read as labels, not as images.
            assert node.load(Label) or kind != "segmentations"
    shutil.copytree(volumes["raw"][0], run.folder / "broken")
    file = run.folder / "broken/.zattrs"
    file.write_text(file.read_text().replace("translation", "shift"))
    with pytest.raises(ValueError, match="shift"):
        validate_zarr_store(str(file.parent))


def test_second_run_has_nothing_to_do(run):
    assert run.planned("all") == {}
    assert "Nothing to be done" in run.snakemake("all").stdout


def test_package_command_makes_the_same_zip(run, small_data, tmp_path, capsys):
    output = tmp_path / "own.zip"
    manifest = str(small_data / "test_crop_manifest.csv")
    folder = str(run.folder / "results/segmentations")
    code = main(["package", folder, "--manifest", manifest, "--output", str(output)])
    assert code == 0
    assert "no problems found" in capsys.readouterr().out
    assert output.read_bytes() == (run.folder / "submission.zip").read_bytes()


def test_default_target_is_all(changed):
    changed.train("tiny", learning_rate=2e-2)
    assert changed.planned() == changed.planned("all") != {}


def test_logging_option_reruns_nothing(changed):
    changed.train("tiny", log_every_steps=3, num_workers=2)
    assert changed.planned("all") == {}


def test_single_crop_as_target(run, small_data):
    row = read_manifest(small_data / "test_crop_manifest.csv")[0]
    path = f"results/tiny/predictions/{row.dataset}/crop{row.crop}"
    assert run.planned("--forcerun", "predict", "--", path) == {"predict": 1}
    planned = run.planned("--forcerun", "predict", "--", f"crop{row.crop}")
    assert planned == {"predict": 1, f"crop{row.crop}": 1}


def test_failed_training_invalidates_its_results(changed):
    changed.train("tiny", learning_rate=3e-2)
    # Snakemake removes the output of a failed job.
    checkpoint = changed.folder / "results/tiny/model.ckpt"
    kept = checkpoint.rename(changed.folder / "model.ckpt")
    assert stages(changed.planned("submission.zip")) == RETRAINED - {"select", "score"}
    assert stages(changed.planned("all")) == RETRAINED
    kept.rename(checkpoint)


def test_external_predictions_are_validated_and_segmented(changed, small_data):
    row = read_manifest(small_data / "test_crop_manifest.csv")[0]
    folder = changed.folder / "external"
    shutil.copytree(changed.folder / "results/tiny/predictions", folder)
    changed.configure(
        output="own",
        predictions={"other": "external/{dataset}/crop{crop}/{label}"},
        submission={"select": {row.label: "other"}, "classes": [row.label]},
    )
    target = f"own/segmentations/{row.dataset}/crop{row.crop}/{row.label}"
    # They are validated on the validation crops of the trainings first.
    planned = changed.planned(target)
    first = {"check_inputs": 1, "split": 1, "datasplit": 1}
    assert planned == first | {"validate": 1, "segment": 1}


def read_voxels(folder):
    return {
        path.name: Volume.open(path).levels[0].array.read(order="C").result()
        for path in folder.iterdir()
        if path.is_dir()
    }


# The last tests of this file change the results that the tests above expect.


@pytest.mark.slow
def test_crop_predicted_by_two_jobs_is_the_same(run, small_data):
    row = read_manifest(small_data / "test_crop_manifest.csv")[0]
    path = f"results/tiny/predictions/{row.dataset}/crop{row.crop}"
    whole = read_voxels(run.folder / path)
    run.train("tiny", inference={"overlap": 0.25, "jobs": 2})
    assert run.planned("--", path) == {"predict": 1, "predict_part": 2}
    run.snakemake("--", path)
    joined = read_voxels(run.folder / path)
    assert sorted(joined) == sorted(whole) != []
    for channel, voxels in whole.items():
        assert voxels.any()
        assert np.array_equal(voxels, joined[channel])
    assert [entry.name for entry in (run.folder / path).parent.glob("*.part*")] == []


@pytest.mark.slow
def test_folds_are_trained_resumed_and_averaged(changed):
    """A training with two folds, of which one is rerun, and one that takes its settings."""
    changed.configure(trainings=["folded", "full"], split={"folds": 2})
    changed.train("folded", classes=["pm"], validation="folds", iterations_per_epoch=2)
    changed.train("full", classes=["pm"], validation="none", settings_from="folded")
    planned = changed.planned("submission.zip")
    assert planned["folds"] == 1 and "split" not in planned
    assert (planned["train"], planned["datasplit"], planned["predict_validation"]) == (3, 3, 2)
    assert (planned["validate"], planned["predict"], planned["segment"]) == (1, 4, 2)
    targets = [
        "results/folded/validation/scores.json",
        "results/folded/predictions/demo_cell-1/crop5",
    ]
    changed.snakemake(*targets)
    folds = changed.folder / "results/folded"
    sides = [
        {row.labels.name for row in read_datasplit(path, None) if row.usage == "validate"}
        for path in sorted(folds.glob("fold*/datasplit.csv"))
    ]
    assert len(sides) == 2 and not sides[0] & sides[1] and len(sides[0] | sides[1]) == 4
    scores = json.loads((folds / "validation/scores.json").read_text())
    (entry, _) = scores["classes"]["pm"]["voxel_sizes"]
    assert len(entry["crops"]) == 4
    # The mean of the networks is predicted, not one of them.
    test = read_voxels(folds / "predictions/demo_cell-1/crop5")["pm"]
    assert test.any()
    assert changed.planned(*targets) == {}
    # Each fold is a job of its own: another one is not repeated for it.
    shutil.rmtree(folds / "fold1/training")
    (folds / "fold1/model.ckpt").unlink()
    again = changed.planned("results/folded/fold1/model.ckpt", *targets)
    assert again == {"train": 1, "predict_validation": 1, "validate": 1, "predict": 1}


@pytest.mark.slow
def test_changed_datasplit_reruns_check_and_later_stages_in_one_run(run):
    run.configure(split={"validation_fraction": 0.45})
    later = RETRAINED - {"select", "train"}
    first = {"check_inputs", "split", "datasplit", "train"}
    assert stages(run.planned("scores.json")) == first | later
    output = run.snakemake("results/tiny/model.ckpt").stdout
    done = set(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", output))
    assert stages(done) == first
    assert run.planned("results/tiny/model.ckpt") == {}
    assert stages(run.planned("scores.json")) == later
