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


def taught(teacher, **changes):
    return {"classes": ["mito"], "voxel_size": 8, "teach": {"from": teacher}} | changes


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"fine": taught("coarce")},
            r"'coarce' is not among `trainings` \(did you mean 'coarse'\?\): fine, coarse",
        ),
        ({"fine": taught("fine")}, "leads back to 'fine': name a training that learns without it"),
        (
            {"fine": taught("coarse"), "coarse": taught("fine")},
            "leads back to 'fine': name a training that learns without it",
        ),
        ({"fine": taught("coarse")}, "'coarse' predicts none of this training's classes, but nuc"),
        (
            {"fine": taught("coarse", classes=["nuc"], validation="folds")},
            "'fine' has `validation: folds` and 'coarse' `validation: held_out`, but the network",
        ),
        (
            {
                "fine": taught("coarse", validation="none"),
                "coarse": {"classes": ["mito"], "voxel_size": 8, "validation": "folds"},
            },
            "'fine' has `validation: none` and 'coarse' `validation: folds`, but the network of",
        ),
        (
            {
                "fine": taught("coarse"),
                "coarse": {"classes": ["mito"], "voxel_size": 8, "validation": "none"},
            },
            "'coarse' has `validation: none`, so it has seen the crops that validate 'fine', whose",
        ),
    ],
    ids=["unknown", "itself", "circle", "classes", "folds", "other folds", "seen"],
)
def test_unsuitable_teachers_are_refused(plan, files, message):
    with pytest.raises(InputError, match=f"training fine: teach.from: .*{message}"):
        plan(files=files, split={"folds": 3})
