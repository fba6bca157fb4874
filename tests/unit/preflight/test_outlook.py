import pandas as pd
import pytest

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.make import make_plan
from cellmap_pipeline.preflight.outlook import write_outlook
from cellmap_pipeline.preflight.prediction_cost import describe, outlook_of, warning_of
from cellmap_pipeline.preflight.training_cost import hours_left, network_cost, training_hours
from cellmap_pipeline.scoring.upper_bound import ceiling
from tests.support.trainings import settings

SETS = ["all48_4nm", "all48_8nm", "organelles_16nm", "organelles_32nm"]


def row(crop, label, side):
    return CropLabel(crop, "d", label, Grid((8, 8, 8), (0, 0, 0), (side, side, side)))


def test_what_perfect_labels_could_reach():
    rows = [row(1, "mito", 4), row(1, "er", 4), row(2, "mito", 4), row(2, "er", 2)]
    assert ceiling(rows, rows) == {"instance": 1, "semantic": 1, "overall": 1}
    # Half of the objects: F1 2/3, mean distance 1/2. Of er's voxels, 64 of 72.
    reach = ceiling(rows, rows[:2])
    assert reach["instance"] == pytest.approx((2 / 3 / 2) ** 0.5)
    assert reach["semantic"] == pytest.approx(64 / 72)
    assert reach["overall"] == pytest.approx((reach["instance"] * reach["semantic"]) ** 0.5)
    assert ceiling(rows, [rows[0]])["overall"] == 0


def one_crop(side, voxel=8, labels=("mito", "er")):
    grid = Grid((voxel,) * 3, (0, 0, 0), (side,) * 3)
    return [CropLabel(7, "d", label, grid) for label in labels]


def test_what_a_crop_takes():
    inference = {"overlap": 0.5, "jobs": 2, "symmetries": 8}
    training = Training.model_validate(
        {
            "classes": ["mito", "er"], "voxel_size": 8, "patch_size": 32, "inference": inference,
            "model": {"architecture": "monai_basic_unet3d"},
        }
    )  # fmt: skip
    found = outlook_of(training, one_crop(64))
    # 8 voxels of context on both sides: 80, windows at 0, 16, 32, 48.
    assert (found.voxels, found.windows, found.passes) == (64**3, 4**3, 8 * 4**3)
    # mito, its boundary, er.
    assert (found.labels, found.stored, found.jobs) == (2, 3 * 64**3, 2)
    assert found.layer == 2 * 3 * 32 * 80 * 80
    assert warning_of(found, "t", training.voxel_size) is None
    assert "0.3 M voxels, 64 windows in 2 jobs" in describe(found)


def test_a_crop_of_far_larger_voxels_is_warned_of():
    training = Training.model_validate(
        {
            "classes": ["mito", "er"], "voxel_size": 4, "patch_size": 32,
            "model": {"architecture": "monai_basic_unet3d"},
        }
    )  # fmt: skip
    found = outlook_of(training, one_crop(50, voxel=32))
    assert found.finer == 512
    message = warning_of(found, "t", training.voxel_size)
    assert "512 times the voxels" in message
    assert "`serves` in t.yaml" in message


@pytest.fixture
def challenge(shared):
    return shared / "data/challenge/test_crop_manifest.csv"


def plan(repo_root, manifest, trainings, tmp_path):
    config = {
        "data_root": str(tmp_path / "nowhere"), "test_crops": str(manifest),
        "output": str(tmp_path / "results"), "trainings": trainings,
    }  # fmt: skip
    return make_plan(config, "config", [repo_root / "config/training"])


def test_the_shipped_set_covers_the_challenge(repo_root, challenge, tmp_path):
    made = plan(repo_root, challenge, SETS, tmp_path)
    assert len(made.given()) == len(read_manifest(challenge)) == 413
    assert ceiling(made.manifest_rows, made.given())["overall"] == 1
    assert made.used() == SETS
    # No crop of 32 nm is predicted at 4 nm, at 512 times as many voxels.
    for name in SETS:
        for rows in made.predicted(name).values():
            factor = rows[0].grid.voxel_size[1] / made.trainings[name].voxel_size[1]
            assert 1 / 4 <= factor <= 1


@pytest.mark.parametrize(("name", "overall"), [("mednext_cos7", 0.126), ("mednext_mito", 0)])
def test_one_training_alone(repo_root, challenge, tmp_path, name, overall):
    made = plan(repo_root, challenge, [name], tmp_path)
    reach = ceiling(made.manifest_rows, made.given())
    assert reach["overall"] == pytest.approx(overall, abs=5e-4)


@pytest.mark.parametrize(
    ("model", "hours"),
    [
        ({"architecture": "monai_dynunet", "filters": [32, 64, 128, 256, 320, 320]}, 9),
        ({"architecture": "mednext", "size": "L", "kernel_size": 3}, 68),
        ({"architecture": "mednext", "size": "L", "kernel_size": 5}, 233),
    ],
)
def test_hours_are_near_the_published_ones(model, hours):
    training = Training.model_validate(
        {
            "classes": ["er", "pm", "ne"], "voxel_size": 8, "model": model, "patch_size": 128,
            "batch_size": 2, "epochs": 1000, "iterations_per_epoch": 250,
            "validation_iterations": 1,
        }
    )  # fmt: skip
    # They are for an A100 of 1.56 TB/s, where ours has 2.0.
    found = training_hours(training, network_cost(training), "A100")
    assert hours * 0.7 < found < hours * 1.1


def test_hours_to_go_at_the_measured_speed():
    table = pd.DataFrame({"epoch": [0, 1, 2], "seconds": [100, 360, 365]})
    assert hours_left(table, settings(epochs=12)) == pytest.approx(0.9, abs=0.01)


def test_the_outlook_names_what_is_missing(repo_root, challenge, tmp_path):
    text = write_outlook(plan(repo_root, challenge, ["organelles_32nm"], tmp_path))
    assert "gives 38 labels of 6 test crops" in text
    assert "training data: not here yet" in text
    assert "38 of the manifest's 413 labels" in text
    # What 32 nm gives nothing of, and what it gives a part of.
    assert "  of crops 557, 558, 559, 560, 561, 562, 986: cell, cyto, " in text
    assert "  of crops 557, 558, 559, 560, 561, 562, 980, 981, 982, 986: " in text
