"""Networks that would be scored on crops that they, or those they learned from, have seen."""

import pytest

from cellmap_pipeline.preflight.splits import leaked_validation
from tests.support.plans import two_trainings

PLAIN = {"classes": ["mito", "nuc"], "voxel_size": 8}
FILES = {
    "teacher": PLAIN,
    "middle": PLAIN | {"teach": {"from": "teacher"}},
    "fine": PLAIN | {"teach": {"from": "middle"}},
}
NAMES = ["teacher", "middle", "fine"]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({}, []),
        ({"middle": "train"}, ["'middle' trains on 1 of the crops that validate 'fine', such as"]),
        # What it does not list itself, it may have learned from its own teacher.
        ({"teacher": "train"}, ["'teacher' trains on 1 of the crops that validate 'fine', such"]),
    ],
    ids=str,
)
def test_teachers_have_not_seen_what_validates(tmp_path, seen, expected):
    plan = two_trainings(tmp_path, FILES, trainings=NAMES)
    sides = {name: {"a/crop1": "train"} for name in NAMES}
    sides["fine"]["a/crop2"] = "validate"
    for name, side in seen.items():
        sides[name]["a/crop2"] = side
    problems = list(leaked_validation(plan, sides))
    assert len(problems) == len(expected)
    for problem, part in zip(problems, expected, strict=True):
        assert problem.startswith(f"training fine: teach.from: {part}")


def test_weights_from_which_a_teacher_began_have_not_seen_what_validates(tmp_path):
    begun = f"{tmp_path / 'results'}/first/model.ckpt"
    files = FILES | {"first": PLAIN, "teacher": PLAIN | {"initial_weights": begun}}
    plan = two_trainings(tmp_path, files, trainings=list(files), output=f"{tmp_path / 'results'}")
    sides = {"first": {"a/crop2": "train"}, "teacher": {"a/crop1": "train"}}
    sides["fine"] = {"a/crop1": "train", "a/crop2": "validate"}
    (problem,) = leaked_validation(plan, sides)
    assert problem.startswith("training fine: teach.from: 'first' trains on 1 of the crops that")


def test_folds_are_compared_with_the_same_fold(tmp_path):
    files = {name: PLAIN | {"validation": "folds"} for name in NAMES}
    files["fine"] = files["fine"] | {"teach": {"from": "teacher"}}
    plan = two_trainings(tmp_path, files, trainings=NAMES, split={"folds": 2})
    folds = [
        {"a/crop1": "validate", "a/crop2": "train"},
        {"a/crop1": "train", "a/crop2": "validate"},
    ]
    sides = {f"{name}/fold{k}": folds[k] for name in ("teacher", "fine") for k in range(2)}
    assert list(leaked_validation(plan, sides)) == []
    sides["teacher/fold1"] = folds[0]
    (problem,) = leaked_validation(plan, sides)
    assert problem.startswith("training fine/fold1: teach.from: 'teacher/fold1' trains on 1 of")
