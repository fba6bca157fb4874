"""Scores that agree with those of the official toolbox, or do not."""

import pytest

from cellmap_pipeline.submission.official_agreement import largest_difference


def scores(mito: float | None, er: float, overall: float, **more: float) -> dict:
    labels = {"mito": {"combined_score": mito, "f1": 1.0}, "er": {"iou": er, "tp": 1}}
    return {"label_scores": labels, "overall_score": overall} | more


OURS = scores(0.5, 0.25, 0.4, overall_score_without_masks=0.6)


@pytest.mark.parametrize(
    ("official", "expected"),
    [
        (scores(0.5, 0.25 + 1e-7, 0.4), None),
        (scores(0.4, 0.24, 0.3), "mito has 0.5 here and 0.4 in the toolbox"),
        (scores(0.5, 0.25 + 1e-5, 0.4), "er has 0.25 here and 0.25001 in the toolbox"),
        (scores(None, 0.2, 0.4), "mito has 0.5 here and no score in the toolbox"),
        (scores(0.5, 0.25, 0.3), "overall_score has 0.4 here and 0.3 in the toolbox"),
        (
            scores(0.5, 0.25, 0.4, overall_detection_score=0.1),
            "overall_detection_score has no score here and 0.1 in the toolbox",
        ),
    ],
)
def test_largest_difference(official: dict, expected: str | None) -> None:
    found = largest_difference(OURS, official)
    assert (found and str(found)) == expected


def test_class_that_only_the_toolbox_scores() -> None:
    official = scores(0.5, 0.25, 0.4)
    official["label_scores"]["np"] = {"combined_score": 0.0}
    found = largest_difference(OURS, official)
    assert str(found) == "np has no score here and 0 in the toolbox"


def test_class_that_the_toolbox_scores_by_another_measure() -> None:
    official = scores(0.5, 0.25, 0.4)
    official["label_scores"]["mito"] = {"boundary_score": 0.5}
    found = largest_difference(OURS, official)
    assert str(found) == "mito has 0.5 here and no score in the toolbox"
