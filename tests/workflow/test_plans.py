"""What Snakemake says to configurations, good and bad, without running a job."""

import re
import shutil

import pytest


@pytest.fixture
def run(new_run):
    return new_run()


@pytest.mark.parametrize("name", ["mednext_cos7", "mednext_mito", "monai_unet_quick"])
def test_the_reference_configurations_plan(run, name):
    run.configure(trainings=[name])
    assert run.planned("submission.zip")["train"] == 1


@pytest.mark.slow
def test_the_plan_says_what_can_be_reached(run, small_data):
    run.configure(data_root="nowhere")
    said = run.snakemake("plan").stdout
    assert "tiny: monai_" in said and "training data: not here yet (nowhere)" in said
    assert "Perfect ones could reach" in said
    run.train("tiny", classes=["mito", "golgi"])
    run.configure(data_root=str(small_data), submission={"classes": ["mito"]})
    assert "a labelled voxel of golgi" in run.snakemake("plan").stdout


@pytest.mark.slow
def test_the_plan_estimates_by_a_calibration(run):
    run.configure(data_root="nowhere", ground_truth=None)
    run.snakemake("calibrate")
    assert run.planned("calibrate") == {}
    said = run.snakemake("plan").stdout
    assert re.search(r"as calibrated on .+, batch 1: about \d+ min", said)
    assert re.search(r"crop 5: 3 labels, .* windows, \d+ min, at most", said)
    # Found for another window.
    run.train("tiny", inference={"window": 64})
    assert "as calibrated" not in run.snakemake("plan").stdout


def test_plans_without_the_data_being_there(run):
    run.configure(data_root="nowhere", ground_truth="nowhere.zarr")
    assert run.planned("all")["train"] == 1
    done = run.snakemake("all", check=False)
    assert done.returncode != 0
    assert "data_root: nowhere does not exist" in done.stdout
    assert "Traceback" not in done.stdout


def write(path, text):
    path.write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: run.configure(data_rot="x"), "data_rot: unknown key"),
        (lambda run: run.configure(trainings=["none"]), "there is no file for 'none'"),
        (lambda run: run.configure(test_crops="none.csv"), "none.csv does not exist"),
        (lambda run: run.train("tiny", epochs=-1), "tiny.yaml: epochs"),
        (lambda run: run.train("tiny", patch_size=33), "tiny.yaml: patch_size"),
        (
            lambda run: write(run.folder / "config/training/tiny.yaml", "a:\n\t- b"),
            "tiny.yaml is not YAML",
        ),
        (
            lambda run: write(run.folder / "config/config.yaml", "a:\n\t- b"),
            "config.yaml is not YAML in line 2: it is indented with a tab",
        ),
    ],
)
def test_bad_configurations_end_with_one_message(run, spoil, message):
    spoil(run)
    done = run.snakemake("--dry-run", check=False)
    assert done.returncode != 0
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_a_target_that_is_not_there_ends_with_one_message(run):
    done = run.snakemake("--dry-run", "crop99", check=False)
    assert done.returncode != 0
    assert "error: target crop99: there is no crop 99 in" in done.stdout
    assert "Traceback" not in done.stdout


def test_what_only_the_data_show_ends_in_the_first_job(run, small_data):
    run.train("tiny", classes=["mito", "golgi"])
    run.configure(submission={"classes": ["mito"]})
    done = run.snakemake("all", check=False)
    assert done.returncode != 0
    assert "a labelled voxel of golgi" in done.stdout
    assert not (run.folder / "results/tiny").exists()


def test_the_data_can_be_looked_at_alone(run):
    run.snakemake("check_inputs")
    log = (run.folder / "results/logs/check_inputs.log").read_text()
    assert "raw: " in log and "are free, at most" in log and "0 problems, 0 warnings" in log
    assert not (run.folder / "results/tiny").exists()


@pytest.mark.slow
def test_missing_raw_ends_in_the_first_job(run, small_data, tmp_path):
    shutil.copytree(small_data, tmp_path / "data")
    for raw in (tmp_path / "data").glob("*/*.zarr/recon-1/em/fibsem-uint8/s*"):
        for chunk in list(raw.glob("*"))[:2]:
            if chunk.is_dir():
                shutil.rmtree(chunk)
    run.configure(data_root=str(tmp_path / "data"))
    done = run.snakemake("all", check=False)
    assert done.returncode != 0
    assert "missing" in done.stdout
    assert not (run.folder / "results/tiny").exists()


def test_the_workflow_catalogues_snakefile(run):
    run.snakemake("--snakefile", str(run.root / "workflow/Snakefile"), "--dry-run")
