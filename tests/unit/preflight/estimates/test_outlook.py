"""The outlook of shipped trainings on the challenge's test crops."""

import json
import re
import shutil

import pytest

from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.plan.make import make_plan, read_plan
from cellmap_pipeline.preflight.estimates import outlook
from cellmap_pipeline.preflight.estimates.outlook import outlook_text
from cellmap_pipeline.scoring.rules.registry import RULES
from cellmap_pipeline.scoring.upper_bound import score_upper_bound

SETS = ["all48_4nm", "all48_8nm", "organelles_16nm", "organelles_32nm"]


@pytest.fixture
def challenge(shared):
    return shared / "data/challenge/test_crop_manifest.csv"


def plan(repo_root, manifest, trainings, tmp_path):
    config = {
        "data_root": str(tmp_path / "nowhere"), "test_crops": str(manifest),
        "output": str(tmp_path / "results"), "trainings": trainings, "split": {"folds": 5},
        "class_table": str(manifest.with_name("classes.csv")),
    }  # fmt: skip
    return make_plan(config, "config", [repo_root / "config/training"])


def test_shipped_trainings_cover_the_challenge(repo_root, challenge, tmp_path):
    made = plan(repo_root, challenge, SETS, tmp_path)
    assert len(made.covered_rows()) == len(read_manifest(challenge)) == 413
    assert (
        score_upper_bound(made.manifest_rows, made.covered_rows(), RULES["2026-07"])["overall"] == 1
    )
    assert made.active_trainings() == SETS
    # No crop of 32 nm is predicted at 4 nm, at 512 times as many voxels.
    for name in SETS:
        for rows in made.rows_by_crop(name).values():
            factor = rows[0].grid.voxel_size[1] / made.trainings[name].voxel_size[1]
            assert 1 / 4 <= factor <= 1


@pytest.mark.parametrize(("name", "overall"), [("mednext_cos7", 0.126), ("mednext_mito", 0)])
def test_upper_bound_of_a_single_training(repo_root, challenge, tmp_path, name, overall):
    made = plan(repo_root, challenge, [name], tmp_path)
    reach = score_upper_bound(made.manifest_rows, made.covered_rows(), RULES["2026-07"])
    assert reach["overall"] == pytest.approx(overall, abs=5e-4)


def test_outlook_names_missing_data_and_labels(repo_root, challenge, tmp_path):
    text = outlook_text(plan(repo_root, challenge, ["organelles_32nm"], tmp_path))
    assert "predicts 38 labels of 6 test crops" in text
    assert "training data: not present yet" in text
    assert "38 of the manifest's 413 labels" in text
    # At 32 nm some labels are not predicted at all, and some only of a part of the crops.
    assert "  crops 557, 558, 559, 560, 561, 562, 986: cell, cyto, " in text
    assert "  crops 557, 558, 559, 560, 561, 562, 980, 981, 982, 986: " in text


def test_outlook_names_classes_missing_in_the_data(folder):
    folder.configure_training(classes=["mito", "golgi"])
    assert "a labeled voxel of golgi" in outlook_text(read_plan(folder.config))


def test_outlook_counts_memory(folder):
    text = outlook_text(read_plan(folder.config))
    assert re.search(r"a step takes 0\.\d GiB of GPU memory", text)


def test_outlook_counts_folds(folder):
    alone = outlook_text(read_plan(folder.config))
    folder.configure(split={"folds": 5})
    folder.configure_training(validation="folds")
    text = outlook_text(read_plan(folder.config))
    assert "5 folds, each of" in text and "folds" not in alone
    passes = [
        int(re.search(r"prediction: ([\d,]+) passes", t)[1].replace(",", "")) for t in (text, alone)
    ]
    assert passes[0] == 5 * passes[1]


def test_outlook_counts_what_a_teacher_predicts(folder):
    """It is trained, though it predicts nothing that is submitted."""
    shutil.copy(folder.training, folder.training.with_name("teacher.yaml"))
    folder.configure(
        trainings=["tiny", "teacher"], submission={"select": {"mito": "tiny", "pm": "tiny"}}
    )
    assert "is not trained: it contributes nothing" in outlook_text(read_plan(folder.config))
    folder.configure_training(teach={"from": "teacher", "margin_nm": 128})
    text = outlook_text(read_plan(folder.config))
    assert "is not trained" not in text
    # Windows of 32 voxels at half their width over a crop of 32, with 16 and 8 on each side.
    assert f"teacher labels the raw around 2 crops: {2 * 4**3} passes, about 1 min on" in text


def test_outlook_uses_the_calibration_of_the_same_window(folder):
    calibrated = read_plan(folder.config).paths.calibration("tiny")
    calibrated.parent.mkdir(parents=True, exist_ok=True)
    found = {"window": [32, 32, 32], "seconds_per_pass": 3600, "device": "cpu", "batch": 1}
    calibrated.write_text(json.dumps(found))
    text = outlook_text(read_plan(folder.config))
    assert re.search(r"as calibrated on cpu, batch 1: about \d+ h", text)
    folder.configure_training(inference={"window": 64})
    assert "as calibrated" not in outlook_text(read_plan(folder.config))


def test_outlook_estimates_tuning_by_label(folder):
    text = outlook_text(read_plan(folder.config))
    assert re.search(
        r"tuning: about 1 min of CPU time \(rough\)\n"
        r"    mito: on 0.0 M voxels, 1 min\n    pm: on 0.0 M voxels, 1 min\n",
        text,
    )


def test_outlook_divides_the_training_by_its_processes(folder, monkeypatch):
    monkeypatch.setattr(outlook, "training_hours", lambda training, cost, gpu: 48.0)
    folder.configure_training(devices=2, nodes=4)
    assert "about 6 h on " in outlook_text(read_plan(folder.config))
