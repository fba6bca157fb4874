"""Trainings with folds, without validation, and with another training's settings."""

import pytest

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.plan.folds import fold_of, training_of
from cellmap_pipeline.plan.lineage import label_lineage
from cellmap_pipeline.plan.validation import validation_settings, validation_trainings
from tests.support.plans import ROWS

FINE = {"classes": ["mito", "nuc"], "voxel_size": 8, "serves": [8]}
FOLDS = {"fine": FINE | {"validation": "folds"}}
# All crops train `full`; the folds of `fine` tune its settings.
FULL = FOLDS | {"full": FINE | {"validation": "none", "settings_from": "fine"}}
SPLIT = {"folds": 3}


def test_a_network_for_each_fold(plan):
    made = plan(files=FOLDS, split=SPLIT)
    networks = made.networks_of("fine")
    assert networks == ["fine/fold0", "fine/fold1", "fine/fold2"]
    assert [(training_of(name), fold_of(name)) for name in networks] == [
        ("fine", 0), ("fine", 1), ("fine", 2)
    ]  # fmt: skip
    assert (training_of("coarse"), fold_of("coarse")) == ("coarse", None)
    assert made.networks_of("coarse") == ["coarse"]
    ((paths, parts),) = validation_settings(made, "fine")["mito"][0]["sources"]
    assert paths == [
        f"results/fine/fold{k}/validation/predictions/{{dataset}}/crop{{crop}}/{{label}}"
        for k in range(3)
    ]


def test_each_training_depends_on_its_own_part_of_the_split(plan):
    def settings(**split):
        made = plan(files=FULL, split=SPLIT | split, trainings=["fine", "coarse", "full"])
        return [made.split_settings(name) for name in ("fine", "coarse", "full")]

    folds, held_out, none = settings()
    assert folds == {"folds": 3, "by": "crop", "seed": 0} and none == {}
    assert held_out == {"validation_fraction": 0.15, "by": "crop", "seed": 0}
    assert settings(validation_fraction=0.2) == [folds, held_out | {"validation_fraction": 0.2}, {}]
    assert settings(folds=4) == [folds | {"folds": 4}, held_out, {}]


def test_a_training_takes_scores_and_settings_from_another(plan):
    made = plan(files=FULL, split=SPLIT, trainings=["full", "fine"])
    assert made.settings_origin("full") == "fine"
    assert made.validated_sources() == ["fine"]
    assert made.is_validated("full") and made.is_validated("fine")
    # The other one is trained and validated, even if it predicts nothing that is submitted.
    made = plan(
        files=FULL, split=SPLIT, trainings=["full", "fine"],
        submission={"select": {"mito": "full", "nuc": "full"}},
    )  # fmt: skip
    assert made.rows_by_crop("fine") == {}
    assert made.active_trainings() == ["full", "fine"]
    assert validation_settings(made, "fine")["mito"][0]["voxel_sizes"] == [[8, 8, 8]]


def test_labels_follow_the_settings_of_the_other_training(plan):
    def lineage(**changes):
        files = FULL | {"fine": FOLDS["fine"] | changes}
        return label_lineage(plan(files=files, split=SPLIT, trainings=["full", "fine"]), ROWS[0])

    assert lineage() == lineage() != lineage(learning_rate=0.01)


def test_averages_are_tuned_with_the_training_that_stands_for_another(plan):
    made = plan(
        files=FULL, split=SPLIT, trainings=["full", "fine", "coarse"],
        submission={"select": {"nuc": {8: ["full", "coarse"], 32: "coarse"}}},
    )  # fmt: skip
    assert validation_trainings(made, "average") == ["fine", "coarse"]
    (task,) = validation_settings(made, "average")["nuc"]
    assert [len(paths) for paths, _ in task["sources"]] == [3, 1]
    assert task["voxel_sizes"] == [[8, 8, 8]]


def test_a_training_without_validation_has_no_scores(plan):
    made = plan(files={"fine": FINE | {"validation": "none"}})
    assert made.validated_sources() == ["coarse"]
    assert not made.is_validated("fine")
    made = plan(files={"fine": FINE | {"validation": "none"}}, submission={"select": "average"})
    # Its average is tuned on the predictions of the others.
    assert validation_trainings(made, "average") == ["coarse"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {
                "a": FINE | {"validation": "none", "settings_from": "b"},
                "b": FINE | {"validation": "none", "settings_from": "a"},
            },
            "training a: settings_from: following it from training to training leads in a circle",
        ),
        (
            {
                "a": FINE | {"validation": "none", "settings_from": "b"},
                "b": FINE | {"validation": "none"},
            },
            "training a: settings_from: 'b' has no settings either: name a training with validat",
        ),
        (
            {
                "a": FINE | {"validation": "none", "settings_from": "b"},
                "b": FINE | {"classes": ["mito"]},
            },
            r"training a: settings_from: 'b' predicts other channels \(mito, mito_boundary\) than",
        ),
    ],
    ids=["circle", "no settings", "channels"],
)
def test_settings_from_unsuitable_trainings_are_refused(plan, files, message):
    with pytest.raises(InputError, match=message):
        plan(files=files, trainings=["a", "b"])
