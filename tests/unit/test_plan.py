import pytest
import yaml

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.manifest import CropLabel, write_manifest
from cellmap_pipeline.plan import crop_label, make_plan, row_settings

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
        ({"classes": ["er"]}, "no training predicts any label"),
    ],
)
def test_what_cannot_be_submitted_is_said(plan, submission, message):
    with pytest.raises(InputError, match="config.yaml: ") as error:
        plan(submission=submission)
    assert message in str(error.value)


def test_rows_travel_as_builtins():
    assert [crop_label(row_settings(row)) for row in ROWS] == ROWS
