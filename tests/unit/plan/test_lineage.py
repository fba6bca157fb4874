"""The predictions from which a label is made, and the settings that it depends on."""

from cellmap_pipeline.config.stages import training_lineage
from cellmap_pipeline.plan.lineage import label_lineage, network_lineage, prediction_paths
from cellmap_pipeline.plan.validation import validation_trainings
from tests.support.plans import ROWS


def test_external_predictions_provide_only_the_labels_that_they_list(plan):
    path = "p/{dataset}/crop{crop}/{label}"
    made = plan(predictions={"other": {"path": path, "classes": ["er"]}})
    assert made.sources(ROWS[2]) == ["other"]
    assert made.sources(ROWS[0]) == ["fine"]
    assert prediction_paths(made, ROWS[2]) == {"other": ["p/a/crop1/er"]}
    assert made.validated_sources() == ["fine", "coarse", "other"]
    assert validation_trainings(made, "other") == ["fine", "coarse"]


def test_labels_depend_on_the_rules_that_chose_their_settings(plan):
    by_default, by_name, other = (
        label_lineage(plan(**changes), ROWS[0])
        for changes in ({}, {"scoring": {"rules": "2026-07"}}, {"scoring": {"rules": "pq"}})
    )
    assert by_default == by_name != other


def test_labels_depend_on_teachers(plan):
    def lineage(**changes):
        teacher = {"classes": ["mito"], "voxel_size": 8}
        files = {
            "first": teacher | changes,
            "second": teacher | {"teach": {"from": "first"}},
            "fine": teacher | {"teach": {"from": "second"}},
        }
        made = plan(files=files, trainings=["first", "second", "fine", "coarse"])
        return network_lineage(made, "fine")

    taught = lineage()
    assert taught == lineage()
    for changes in ({"learning_rate": 0.01}, {"inference": {"overlap": 0.25}}):
        assert lineage(**changes) != taught
    # Without a teacher, it is what it was before there were teachers.
    made = plan(trainings=["fine", "coarse"])
    settings = made.trainings["fine"], made.split_settings("fine")
    assert network_lineage(made, "fine") == training_lineage(*settings)
