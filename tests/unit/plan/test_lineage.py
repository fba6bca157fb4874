"""Paths of the predictions from which a label is made."""

from cellmap_pipeline.plan.lineage import prediction_paths
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
