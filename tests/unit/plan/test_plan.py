from dataclasses import replace

import pytest
import yaml

from cellmap_pipeline.crop_label import CropLabel, crop_label, row_settings
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.lineage import label_sources
from cellmap_pipeline.plan.make import make_plan
from cellmap_pipeline.plan.targets import check_target
from cellmap_pipeline.plan.validation import validation_settings, validation_trainings

MODEL = {"model": {"architecture": "monai_basic_unet3d"}, "patch_size": 64}


def grid(voxel_size):
    return Grid((voxel_size,) * 3, (0, 0, 0), (8, 8, 8))


ROWS = [
    CropLabel(1, "a", "mito", grid(8)),
    CropLabel(1, "a", "nuc", grid(8)),
    CropLabel(1, "a", "er", grid(8)),
    CropLabel(2, "b", "nuc", grid(32)),
]


@pytest.fixture
def plan(tmp_path):
    def make(**changes):
        write_manifest(ROWS, tmp_path / "m.csv")
        for name, extra in {
            "fine": {"classes": ["mito", "nuc"], "voxel_size": 8, "serves": [8]},
            "coarse": {"classes": ["nuc"], "voxel_size": 32},
        }.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(MODEL | extra))
        config = {
            "data_root": "data",
            "test_crops": str(tmp_path / "m.csv"),
            "trainings": ["fine", "coarse"],
        }
        return make_plan(config | changes, "config.yaml", [tmp_path])

    return make


def test_which_training_gives_which_label(plan):
    made = plan()
    assert [made.sources(row) for row in ROWS] == [["fine"], ["fine", "coarse"], [], ["coarse"]]
    assert made.segmented() == [ROWS[0], ROWS[1], ROWS[3]]
    assert made.predicted("fine") == {1: ROWS[:2]}
    assert made.predicted("coarse") == {1: [ROWS[1]], 2: [ROWS[3]]}


def test_the_users_choice_goes_before(plan):
    made = plan(submission={"select": {"nuc": "coarse"}})
    assert made.sources(ROWS[1]) == ["coarse"]
    assert made.predicted("fine") == {1: [ROWS[0]]}


def test_predictions_made_elsewhere_take_part(plan):
    made = plan(predictions={"other": "p/{dataset}/crop{crop}/{label}"})
    assert made.sources(ROWS[2]) == ["other"]
    assert made.sources(ROWS[0]) == ["fine", "other"]


def test_predictions_made_elsewhere_may_be_of_some_labels(plan):
    path = "p/{dataset}/crop{crop}/{label}"
    made = plan(predictions={"other": {"path": path, "classes": ["er"]}})
    assert made.sources(ROWS[2]) == ["other"]
    assert made.sources(ROWS[0]) == ["fine"]
    assert label_sources(made, ROWS[2]) == {"other": ["p/a/crop1/er"]}
    assert made.validated() == ["fine", "coarse", "other"]
    assert validation_trainings(made, "other") == ["fine", "coarse"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text('mito,1,""\nnuc,2,""\ner,3,"1,2"\n')
    return str(path)


def test_a_label_made_of_its_parts(plan, table):
    made = plan(class_table=table)
    assert made.sources(ROWS[2]) == ["fine:parts"]
    assert made.predicted("fine") == {1: ROWS[:2]}
    assert label_sources(made, ROWS[2]) == {
        "fine:parts": [f"results/fine/predictions/a/crop1/{part}" for part in ("mito", "nuc")]
    }
    (er,) = validation_settings(made, "fine")["er"]
    assert er == {
        "voxel_sizes": [[8, 8, 8]],
        "sources": [
            ("results/fine/validation/predictions/{dataset}/crop{crop}/{label}", ["mito", "nuc"])
        ],
        "trainings": ["fine"],
    }
    # Also where the parts themselves are not submitted.
    alone = plan(class_table=table, submission={"classes": ["er"]})
    parts = [replace(ROWS[2], label=label) for label in ("mito", "nuc")]
    assert alone.predicted("fine") == {1: parts}


def test_averages_are_tuned_on_crops_of_all(plan):
    assert plan().averaged() == {}
    made = plan(submission={"select": "average"})
    assert made.averaged() == {"nuc": [["fine", "coarse"]]}
    assert made.validated() == ["fine", "coarse", "average"]
    assert validation_trainings(made, "average") == ["fine", "coarse"]
    assert validation_settings(made, "average")["nuc"][0]["voxel_sizes"] == [[8, 8, 8]]
    made = plan(submission={"select": {"nuc": {8: ["fine", "coarse"], 32: "coarse"}}})
    assert made.averaged() == {"nuc": [["fine", "coarse"]]}
    assert made.sources(ROWS[3]) == ["coarse"]


def test_others_averaged_at_another_voxel_size(plan):
    path = "p/{dataset}/crop{crop}/{label}"
    by_size = {8: ["fine", "coarse"], 32: ["coarse", "other"]}
    made = plan(submission={"select": {"nuc": by_size}}, predictions={"other": path})
    assert made.averaged() == {"nuc": [["fine", "coarse"], ["coarse", "other"]]}
    fine, coarse = validation_settings(made, "average")["nuc"]
    assert (fine["voxel_sizes"], coarse["voxel_sizes"]) == ([[8, 8, 8]], [[32, 32, 32]])
    assert (fine["trainings"], coarse["trainings"]) == (["fine", "coarse"], ["coarse"])
    assert coarse["sources"][1] == (path, [])


def test_what_nothing_gives_can_be_written_empty(plan):
    assert plan().segmented() == [ROWS[0], ROWS[1], ROWS[3]]
    made = plan(submission={"missing": "empty"})
    assert made.segmented() == ROWS
    assert made.given() == [ROWS[0], ROWS[1], ROWS[3]]


def test_voxel_sizes_to_score_at(plan):
    assert validation_settings(plan(), "fine")["nuc"][0]["voxel_sizes"] == [[8, 8, 8]]
    coarse = validation_settings(plan(), "coarse")["nuc"][0]["voxel_sizes"]
    assert coarse == [[8, 8, 8], [32, 32, 32]]
    # Not asked for: at the training's own.
    made = plan(submission={"classes": ["nuc"]})
    assert validation_settings(made, "fine")["mito"][0]["voxel_sizes"] == []


def test_part_of_the_crops_and_classes(plan):
    assert plan(submission={"crops": [2]}).crop_labels == [ROWS[3]]
    assert plan(submission={"classes": ["er", "nuc"]}).crop_labels == ROWS[1:]


@pytest.mark.parametrize(
    ("submission", "message"),
    [
        ({"crops": [7]}, "submission.crops: 7 not in"),
        ({"classes": ["golgi"]}, "submission.classes: golgi not in"),
        ({"select": {"mito": "nobody"}}, "'nobody' is not among"),
        ({"select": {"mito": "coarse"}}, "does not predict it"),
        ({"select": {"mito": {8: ["fine", "coarse"]}}}, "does not predict it"),
        ({"select": {"er": "fine:parts"}}, "does not predict all parts of it"),
        ({"select": {"mito": {"8 8": "fine"}}}, "is not a voxel size in nm"),
        ({"classes": ["er"]}, "no training predicts any label"),
    ],
)
def test_what_cannot_be_submitted_is_said(plan, submission, message):
    with pytest.raises(InputError, match="config.yaml: ") as error:
        plan(submission=submission)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("crop1", None),
        ("results/fine/predictions/a/crop1", None),
        ("results/segmentations/a/crop1/mito", None),
        ("results/figures/crops/b/crop2.jpg", None),
        ("results/fetched/crop99.json", None),  # It may be of a training crop.
        ("all", None),
        ("", None),
        ("crop99", "target crop99: there is no crop 99 in .*m.csv, only 1, 2$"),
        ("results/segmentations/a/crop99/mito", "there is no crop 99"),
        ("results/figures/crops/a/crop99.jpg", "there is no crop 99"),
        ("results/fine/predictions/b/crop1", "crop 1 is of the dataset 'a'"),
        ("./results/fin/predictions/a/crop1", r"'fin' is not among .* \(did you mean 'fine'\?\)"),
        ("results/fine/predictions/b/crop2", "training 'fine' predicts nothing of crop 2"),
        ("results/segmentations/a/crop1/er", "of crop 1 only mito, nuc are written, not 'er'"),
        ("results/coarse/model.ckpt", None),
        ("results/fine/validation/scores.json", None),
        ("results/other/validation/scores.json", None),
        ("results/figures/validation/coarse.png", None),
        ("results/fin/model.ckpt", r"'fin' is not among `trainings` \(did you mean 'fine'\?\): "),
        ("results/other/model.ckpt", "'other' is not among `trainings`: fine, coarse$"),
        ("results/figures/training/fin.png", "'fin' is not among `trainings`"),
        (
            "results/nope/validation/scores.json",
            "'nope' is not among what gives labels of this submission: fine, coarse, other$",
        ),
        ("results/figures/validation/average.png", "'average' is not among what gives labels"),
        ("score", "there is no truth to score by: set `ground_truth`"),
        ("scores.json", "there is no truth to score by"),
        ("results/figures/scores.png", "there is no truth to score by"),
    ],
)
def test_a_target_that_is_not_there_is_said(plan, target, message):
    other = {"path": "p/{dataset}/{crop}/{label}", "classes": ["nuc"]}
    made = plan(output="results", predictions={"other": other})
    if message is None:
        check_target(made, target)
    else:
        with pytest.raises(InputError, match=message):
            check_target(made, target)


def test_a_target_that_the_submission_leaves_out_is_said(plan):
    made = plan(submission={"crops": [1]})
    with pytest.raises(InputError, match="`submission` leaves crop 2 out"):
        check_target(made, "crop2")


def test_rows_travel_as_builtins():
    assert [crop_label(row_settings(row)) for row in ROWS] == ROWS
