"""Plans that cannot be submitted."""

import pytest

from cellmap_pipeline.errors import InputError


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
    ids=str,
)
def test_impossible_submissions_are_refused(plan, submission, message):
    with pytest.raises(InputError, match="config.yaml: ") as error:
        plan(submission=submission)
    assert message in str(error.value)
