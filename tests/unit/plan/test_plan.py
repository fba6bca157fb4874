"""Which sources provide which label, and which crops each training predicts."""

from dataclasses import replace

import pytest
import yaml

from cellmap_pipeline.config.stages import training_lineage
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.plan.lineage import prediction_paths
from cellmap_pipeline.plan.make import make_plan
from cellmap_pipeline.plan.validation import validation_settings
from tests.support.plans import MODEL, ROWS

PATTERN = "{dataset}/crop{crop}/{label}"


def test_sources_of_each_label(plan):
    made = plan()
    assert [made.sources(row) for row in ROWS] == [["fine"], ["fine", "coarse"], [], ["coarse"]]
    assert made.rows_to_segment() == [ROWS[0], ROWS[1], ROWS[3]]
    assert made.rows_by_crop("fine") == {1: ROWS[:2]}
    assert made.rows_by_crop("coarse") == {1: [ROWS[1]], 2: [ROWS[3]]}


def test_oversampled_test_datasets_are_those_of_the_manifest(tmp_path):
    """So a manifest with a new dataset reruns only trainings that say `test`."""
    nuc = MODEL | {"classes": ["nuc"], "voxel_size": 32}
    for name, changes in (("with", {"oversample": {"datasets": "test"}}), ("without", {})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(nuc | changes))
    manifest = tmp_path / "m.csv"
    config = {"data_root": "data", "test_crops": str(manifest), "trainings": ["with", "without"]}
    lineages = []
    for rows, weights in ((ROWS, {"a": 2, "b": 2}), (ROWS[:3], {"a": 2})):
        write_manifest(rows, manifest)
        made = make_plan(config, "config.yaml", [tmp_path])
        assert made.trainings["with"].oversample.datasets == weights
        assert made.trainings["without"].oversample is None
        lineages.append([training_lineage(training, {}) for training in made.trainings.values()])
    assert lineages[0][0] != lineages[1][0] and lineages[0][1] == lineages[1][1]


def test_selected_source_overrides_tuned_one(plan):
    made = plan(submission={"select": {"nuc": "coarse"}})
    assert made.sources(ROWS[1]) == ["coarse"]
    assert made.rows_by_crop("fine") == {1: [ROWS[0]]}


def test_external_predictions_are_sources(plan):
    made = plan(predictions={"other": "p/{dataset}/crop{crop}/{label}"})
    assert made.sources(ROWS[2]) == ["other"]
    assert made.sources(ROWS[0]) == ["fine", "other"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text('mito,1,""\nnuc,2,""\ner,3,"1,2"\n')
    return str(path)


def test_label_may_be_composed_of_its_parts(plan, table):
    made = plan(class_table=table)
    assert made.sources(ROWS[2]) == ["fine:parts"]
    assert made.rows_by_crop("fine") == {1: ROWS[:2]}
    assert prediction_paths(made, ROWS[2]) == {
        "fine:parts": [f"results/fine/predictions/a/crop1/{part}" for part in ("mito", "nuc")]
    }
    (er,) = validation_settings(made, "fine")["er"]
    assert er == {
        "voxel_sizes": [[8, 8, 8]],
        "caps_nm": [[]],
        "sources": [([f"results/fine/validation/predictions/{PATTERN}"], ["mito", "nuc"])],
        "trainings": ["fine"],
    }
    # Also where the parts themselves are not submitted.
    alone = plan(class_table=table, submission={"classes": ["er"]})
    parts = [replace(ROWS[2], label=label) for label in ("mito", "nuc")]
    assert alone.rows_by_crop("fine") == {1: parts}


def test_labels_without_a_source_can_be_written_empty(plan):
    assert plan().rows_to_segment() == [ROWS[0], ROWS[1], ROWS[3]]
    made = plan(submission={"missing": "empty"})
    assert made.rows_to_segment() == ROWS
    assert made.covered_rows() == [ROWS[0], ROWS[1], ROWS[3]]


def test_submission_may_be_limited_to_crops_and_classes(plan):
    assert plan(submission={"crops": [2]}).crop_labels == [ROWS[3]]
    assert plan(submission={"classes": ["er", "nuc"]}).crop_labels == ROWS[1:]


TEACHER = {"classes": ["mito", "nuc"], "voxel_size": 8}
# The teacher provides nothing that is submitted.
CHAIN = {
    "teacher": TEACHER,
    "middle": TEACHER | {"teach": {"from": "teacher"}},
    "fine": TEACHER | {"serves": [8], "teach": {"from": "middle"}},
}
SELECTED = {
    "trainings": ["teacher", "middle", "fine", "coarse"],
    "submission": {"select": {"mito": "fine", "nuc": {8: "fine", 32: "coarse"}}},
}


def test_teachers_are_trained_but_not_tuned(plan):
    made = plan(files=CHAIN, **SELECTED)
    assert made.teachers("fine") == ["middle", "teacher"]
    assert made.active_trainings() == ["teacher", "middle", "fine", "coarse"]
    assert made.validated_sources() == ["fine", "coarse"]
    # A network from a file learns nothing, so it needs no teacher.
    (made.manifest.parent / "model.ckpt").touch()
    inference = {"checkpoint": str(made.manifest.parent / "model.ckpt")}
    made = plan(files=CHAIN | {"fine": CHAIN["fine"] | {"inference": inference}}, **SELECTED)
    assert made.teachers("fine") == [] and made.teacher_of("fine") is None
    assert made.active_trainings() == ["fine", "coarse"]


def test_each_fold_is_taught_by_the_same_fold(plan):
    files = {name: values | {"validation": "folds"} for name, values in CHAIN.items()}
    made = plan(files=files, split={"folds": 3}, **SELECTED)
    assert made.teacher_of("fine/fold2") == "middle/fold2"
    assert made.teacher_of("teacher/fold2") is None
