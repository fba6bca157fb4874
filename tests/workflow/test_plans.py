"""What Snakemake reports about valid and invalid configurations before any expensive job."""

import re

import pytest


@pytest.fixture
def run(new_run):
    return new_run()


@pytest.mark.parametrize(
    "name", ["mednext_cos7", "mednext_mito", "monai_unet_quick", "nnunet_quick"]
)
def test_single_trainings_can_be_planned(run, name):
    run.configure(trainings=[name])
    assert run.planned("submission.zip")["train"] == 1


@pytest.mark.slow
def test_plan_reports_the_reachable_score_and_uses_the_calibration(run):
    run.configure(data_root="nowhere", ground_truth=None)
    run.snakemake("calibrate")
    assert run.planned("calibrate") == {}
    output = run.snakemake("plan").stdout
    assert "tiny: monai_" in output and "training data: not present yet (nowhere)" in output
    assert "If perfect, they score at most" in output
    assert re.search(r"as calibrated on .+, batch 1: about \d+ min", output)
    assert re.search(r"crop 5: 3 labels, .* windows, \d+ min, at most", output)


def test_runs_can_be_planned_without_data(run):
    run.configure(data_root="nowhere", ground_truth="nowhere.zarr")
    assert run.planned("all")["train"] == 1
    done = run.snakemake("all", check=False)
    assert done.returncode != 0
    assert "data_root: nowhere does not exist" in done.stdout
    assert "Traceback" not in done.stdout


def test_teachers_are_trained_first_and_not_validated(run):
    run.train("student", teach={"from": "tiny"})
    select = dict.fromkeys(["nuc", "mito", "pm"], "student")
    run.configure(trainings=["tiny", "student"], submission={"select": select})
    planned = run.planned("submission.zip")
    assert (planned["train"], planned["datasplit"]) == (2, 2)
    assert (planned["predict_teacher"], planned["pseudo_labels"]) == (1, 1)
    assert (planned["predict_validation"], planned["validate"], planned["predict"]) == (1, 1, 2)
    for name in ("tiny", "student"):
        run.train(
            name, validation="folds", **({"teach": {"from": "tiny"}} if name != "tiny" else {})
        )
    run.configure(split={"folds": 3})
    planned = run.planned("submission.zip")
    assert (planned["train"], planned["predict_teacher"], planned["pseudo_labels"]) == (6, 3, 3)
    output = run.snakemake("--dry-run", "results/student/fold1/teacher_predictions").stdout
    assert "input: results/tiny/fold1/model.ckpt, results/student/fold1/datasplit.csv" in output


def write(path, text):
    path.write_text(text)


def test_a_run_without_any_score_has_no_leaderboard(run):
    run.train("tiny", validation="none")
    assert run.planned()["leaderboard"] == 1
    run.configure(ground_truth=None)
    planned = run.planned()
    assert planned["report"] == 1 and not planned.keys() & {"leaderboard", "plot_leaderboard"}


def test_the_leaderboard_has_averages_and_external_predictions(run):
    run.train("other", classes=["nuc", "pm"])
    path = "external/{dataset}/crop{crop}/{label}"
    run.configure(
        trainings=["tiny", "other"],
        predictions={"nnunet": {"path": path, "classes": ["mito"]}},
        submission={"select": {"pm": ["tiny", "other"]}},
        ground_truth=None,
    )
    output = run.snakemake("--dry-run", "results/leaderboard.csv").stdout
    inputs = re.search(r"rule leaderboard:\n    input: (.*)", output)[1].split(", ")
    sources = ("tiny", "other", "nnunet", "average")
    assert set(inputs) == {f"results/{source}/validation/scores.json" for source in sources}


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


def test_unknown_target_ends_with_one_message(run):
    done = run.snakemake("--dry-run", "crop99", check=False)
    assert done.returncode != 0
    assert "error: target crop99: there is no crop 99 in" in done.stdout
    assert "Traceback" not in done.stdout


def test_classes_missing_in_the_data_end_the_first_job(run, small_data):
    run.train("tiny", classes=["mito", "golgi"])
    run.configure(submission={"classes": ["mito"]})
    done = run.snakemake("all", check=False)
    assert done.returncode != 0
    assert "a labeled voxel of golgi" in done.stdout
    assert not (run.folder / "results/tiny").exists()


def test_snakefile_of_the_workflow_catalog(run):
    run.snakemake("--snakefile", str(run.root / "workflow/Snakefile"), "--dry-run")
