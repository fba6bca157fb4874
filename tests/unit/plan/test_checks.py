"""Plans that cannot be submitted."""

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.checks import check_container


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


def test_a_container_must_exist(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match="config.yaml: `--sdm apptainer` .* `container` names none"
    ):
        check_container(plan(), "config.yaml")
    with pytest.raises(InputError, match=f"container: made.sif does not exist in {tmp_path}"):
        check_container(plan(container="made.sif"), "config.yaml")
    (tmp_path / "made.sif").touch()
    for image in ("made.sif", "docker://example.org/cellmap-pipeline:1"):
        check_container(plan(container=image), "config.yaml")
