"""Each key of a training's file declares what it affects, which determines the stages."""

import pytest
from pydantic import Field

from cellmap_pipeline.config import stages
from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.config.types import Affects, Section, affects, groups_of, keys_that_affect
from tests.support.patches import training


@pytest.mark.parametrize(
    ("model", "key"),
    [(model, key) for model in (Training, Inference) for key in model.model_fields],
)
def test_each_key_declares_what_it_affects(model: type[Section], key: str) -> None:
    groups = groups_of(model, key)
    assert groups, f"{key}: add json_schema_extra=affects(…) where it is declared"
    assert set(groups) <= set(Affects)


def test_keys_of_a_group_are_in_order_of_declaration() -> None:
    class Example(Section):
        a: int = Field(1, json_schema_extra=affects(Affects.LEARNING))
        b: int = Field(1, json_schema_extra=affects(Affects.JOBS))
        c: int = Field(1, json_schema_extra=affects(Affects.JOBS, Affects.LEARNING))

    assert keys_that_affect(Example, Affects.LEARNING) == ("a", "c")


def test_checkpoints_track_only_keys_that_affect_them() -> None:
    without_effect = {
        key for key in Training.model_fields if "no result" in groups_of(Training, key)[0]
    }
    assert {"num_workers", "memory_gb", "resources"} <= without_effect
    tracked = {*stages.DATASPLIT_KEYS, "datasplit", *stages.TRAIN_KEYS}
    later = {"serves", "inference", "postprocess", "settings_from"}
    assert tracked == set(Training.model_fields) - without_effect - later
    assert set(stages.NETWORK_KEYS) <= set(stages.TRAIN_KEYS)


def test_trainings_of_before_several_nodes_remain_valid() -> None:
    def tracked(**changes: object) -> dict[str, object]:
        return stages.training_settings(training(**changes), stages.TRAIN_KEYS)

    assert "nodes" not in tracked()
    assert tracked(nodes=1) == tracked() and tracked(nodes=2) == tracked() | {"nodes": 2}
    for settings, nodes in ((tracked(), 1), (tracked(nodes=2), 2)):
        assert Training.model_validate(settings).nodes == nodes
    lineages = {stages.training_lineage(training(nodes=n), {}) for n in (1, 1, 2)}
    assert len(lineages) == 2


def test_trainings_of_before_teachers_remain_valid() -> None:
    def tracked(**changes: object) -> dict[str, object]:
        return stages.training_settings(training(**changes), stages.TRAIN_KEYS)

    assert "teach" not in tracked() and "teach" not in training().model_dump()
    taught = tracked(teach={"from": "other", "at_least": 0.9})
    expected = {"from": "other", "at_least": 0.9, "margin_nm": None, "share": 0.25}
    assert taught == tracked() | {"teach": expected}
    made = Training.model_validate(taught)
    assert made.teach and made.teach.teacher == "other" and made.taught_margin == (16, 16, 16)


def test_predictions_made_before_descriptors_could_be_stored_remain_valid() -> None:
    def tracked(**inference: object) -> dict[str, object]:
        return stages.inference_settings(training(targets=targets, inference=inference))

    targets = {"mito": ["descriptors"]}
    assert "store" not in tracked()
    stored = tracked(store=["descriptors"])
    assert stored == tracked() | {"store": ["descriptors"]}
    for settings, store in ((tracked(), []), (stored, ["descriptors"])):
        made = stages.inference_of_params({"rows": [], **settings}, {"batch": 4})
        assert made == Inference(store=store, batch=4)
    keys = [*stages.TRAIN_KEYS, *stages.NETWORK_KEYS]
    assert "inference" not in keys
