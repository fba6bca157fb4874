"""What each source is validated on: crops, averages and voxel sizes."""

from dataclasses import replace

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.validation import (
    ground_truth_sizes,
    predicting_trainings,
    validation_settings,
    validation_trainings,
)
from tests.support.plans import ROWS


def test_averages_are_tuned_on_crops_of_all_sources(plan):
    assert plan().averages_by_label() == {}
    made = plan(submission={"select": "average"})
    assert made.averages_by_label() == {"nuc": [["fine", "coarse"]]}
    assert made.validated_sources() == ["fine", "coarse", "average"]
    assert validation_trainings(made, "average") == ["fine", "coarse"]
    assert validation_settings(made, "average")["nuc"][0]["voxel_sizes"] == [[8, 8, 8]]
    made = plan(submission={"select": {"nuc": {8: ["fine", "coarse"], 32: "coarse"}}})
    assert made.averages_by_label() == {"nuc": [["fine", "coarse"]]}
    assert made.sources(ROWS[3]) == ["coarse"]


def test_averages_may_have_different_sources_at_each_voxel_size(plan):
    path = "p/{dataset}/crop{crop}/{label}"
    by_size = {8: ["fine", "coarse"], 32: ["coarse", "other"]}
    made = plan(submission={"select": {"nuc": by_size}}, predictions={"other": path})
    assert made.averages_by_label() == {"nuc": [["fine", "coarse"], ["coarse", "other"]]}
    fine, coarse = validation_settings(made, "average")["nuc"]
    assert (fine["voxel_sizes"], coarse["voxel_sizes"]) == ([[8, 8, 8]], [[32, 32, 32]])
    assert (fine["trainings"], coarse["trainings"]) == (["fine", "coarse"], ["coarse"])
    assert coarse["sources"][1] == ([path], [])


def test_only_trainings_that_a_source_consists_of_predict_for_it(plan):
    """An average of external predictions is scored on crops of trainings that predict nothing."""
    path = "p/{dataset}/crop{crop}/{label}"
    external = {"one": path, "other": path}
    made = plan(submission={"select": {"nuc": ["one", "other"]}}, predictions=external)
    assert validation_trainings(made, "average") and predicting_trainings(made, "average") == []
    assert predicting_trainings(made, "one") == []
    made = plan(submission={"select": {"nuc": ["coarse", "other"]}}, predictions=external)
    assert predicting_trainings(made, "average") == ["coarse"]
    assert predicting_trainings(made, "fine") == ["fine"]


def test_labels_are_scored_at_the_voxel_sizes_of_test_crops(plan):
    assert validation_settings(plan(), "fine")["nuc"][0]["voxel_sizes"] == [[8, 8, 8]]
    coarse = validation_settings(plan(), "coarse")["nuc"][0]["voxel_sizes"]
    assert coarse == [[8, 8, 8], [32, 32, 32]]
    # Labels that no test crop requests are scored at the training's own voxel size.
    made = plan(submission={"classes": ["nuc"]})
    assert validation_settings(made, "fine")["mito"][0]["voxel_sizes"] == []


def test_largest_distances_of_the_test_crops(plan):
    # Half of the shortest side: of 8 voxels of 8 nm, and of 8 voxels of 32 nm.
    coarse = validation_settings(plan(), "coarse")["nuc"][0]
    assert coarse["caps_nm"] == [[32], [128]]
    wide = Grid((8, 8, 8), (0, 0, 0), (16, 8, 40))
    high = Grid((8, 8, 8), (0, 0, 0), (30, 30, 30))
    more = [CropLabel(3, "a", "nuc", wide), CropLabel(4, "a", "nuc", high)]
    made = plan(submission={"crops": [1]})
    made = replace(made, manifest_rows=[*made.manifest_rows, *more])
    # What is submitted changes no setting.
    assert validation_settings(made, "fine")["nuc"][0]["caps_nm"] == [[32, 32, 120]]
    # The mean over crops of one size is that of each.
    made = replace(made, manifest_rows=[*made.manifest_rows[:-1]])
    assert validation_settings(made, "fine")["nuc"][0]["caps_nm"] == [[32]]


def test_ground_truth_is_read_at_the_voxel_sizes_that_are_scored(plan):
    made = plan()
    assert ground_truth_sizes(made, "fine") == {"mito": [(8, 8, 8)], "nuc": [(8, 8, 8)]}
    assert ground_truth_sizes(made, "coarse") == {"nuc": [(8, 8, 8), (32, 32, 32)]}
    # Labels that no test crop requests are scored at the training's own voxel size.
    made = plan(submission={"classes": ["nuc"]})
    assert ground_truth_sizes(made, "fine")["mito"] == [(8, 8, 8)]


def test_ground_truth_of_external_predictions_is_read_for_all_trainings(plan):
    made = plan(predictions={"other": "p/{dataset}/crop{crop}/{label}"})
    # They are scored on the validation crops of all trainings.
    assert ground_truth_sizes(made, "coarse") == {
        "nuc": [(8, 8, 8), (32, 32, 32)],
        "mito": [(8, 8, 8)],
        "er": [(8, 8, 8)],
    }
