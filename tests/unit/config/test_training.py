"""Values of a training's file, and the messages about invalid ones."""

import pytest

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.errors import InputError
from tests.support.configs import training


def test_defaults_and_isotropic_sizes(tmp_path):
    made = training(tmp_path)
    assert made.voxel_size == (8, 8, 8)
    assert made.patch_size == (64, 64, 64)
    assert made.epochs == 100
    assert made.scheduler.name == "constant"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "a.yaml: epoch: unknown key (did you mean 'epochs'?)"),
        ({"augment": {"flop": True}}, "augment.flop: unknown key (did you mean 'flip'?)"),
        ({"epochs": 0}, "epochs: Input should be greater than or equal to 1, not 0"),
        ({"epochs": "many"}, "epochs: Input should be a valid integer, not 'many'"),
        ({"classes": None}, "a.yaml: classes: is missing"),
        ({"classes": []}, "classes: is empty: name at least one"),
        ({"classes": ["mito", "mito"]}, "lists mito twice"),
        ({"classes": ["../mito"]}, "is not a name"),
        ({"voxel_size": -8}, "voxel_size"),
        ({"voxel_size": [8, 8]}, "voxel_size"),
        ({"patch_size": 60}, "patch_size"),
        ({"model": {"architecture": "nonet"}}, "nonet"),
        ({"model": {"architecture": "mednext", "size": "XXL"}}, "size"),
        ({"loss": "mse"}, "loss"),
        ({"initial_weights": "s3://a"}, "initial_weights: is a URL, but must be a path on this"),
        ({"initial_weights": 3}, "initial_weights: Input should be a valid dictionary, not 3"),
        ({"initial_weights": {"part": "encoder"}}, "initial_weights.path: is missing"),
        (
            {"initial_weights": {"path": "a.pt", "parts": "all"}},
            "initial_weights.parts: unknown key (did you mean 'part'?)",
        ),
        (
            {"initial_weights": {"path": "a.pt", "at_least": 2}},
            "initial_weights.at_least: Input should be less than or equal to 1, not 2",
        ),
        (
            {
                "model": {"architecture": "monai_unet"},
                "initial_weights": {"path": "a.pt", "part": "encoder"},
            },
            "initial_weights.part: the names of monai_unet's weights do not tell its encoder from "
            "the rest: leave it out, or choose one of mednext, ",
        ),
        ({"targets": {"mito": ["lsd"]}}, "a.yaml: targets.mito.0: Input should be 'boundary', "),
        (
            {"targets": {"mito": [{"descriptors": {"sigma": 80}}]}},
            "a.yaml: targets.mito.0.descriptors.sigma: unknown key",
        ),
        (
            {"targets": {"mito": [{"affinity": [[1, 0, 0]]}]}},
            "a.yaml: targets.mito.0.affinity: unknown key",
        ),
        ({"inference": {"overlap": 0.9}}, "inference.overlap"),
        ({"postprocess": {"er": {}}}, "postprocess"),
        ({"postprocess": {"mito": {"threshold": 3}}}, "threshold"),
        (
            {"postprocess": {"mito": {"method": "mutex_watershed"}}},
            "targets: {mito: [affinities]}",
        ),
        (
            {"validation": "none", "early_stopping_patience": 9},
            "`early_stopping_patience` stops by validation, of which `validation: none` has none",
        ),
        (
            {"validation": "none", "inference": {"checkpoints": 2}},
            "`inference.checkpoints: 2` are the best by validation, of which `validation: none` "
            "has none: remove it, or average the weights by `ema`",
        ),
    ],
    ids=str,
)
def test_invalid_values_are_named(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        training(tmp_path, **changes)
    assert str(tmp_path / "a.yaml") in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": "big"}, "patch_size: Input should be a valid integer, not 'big'"),
        ({"voxel_size": "8nm"}, "voxel_size: Input should be a valid number, not '8nm'"),
        ({"voxel_size": [8, "x", 8]}, "voxel_size.1: Input should be a valid number, not 'x'"),
        ({"crops": []}, "crops: is empty: name at least one"),
        ({"voxel_size": [8] * 4}, "voxel_size: holds 4 values, but takes 3"),
        ({"serves": [8, "x"]}, "serves.1: Input should be a valid number, not 'x'"),
        (
            {"inference": {"batch": "x"}},
            "inference.batch: Input should be a valid integer; or Input should be 'auto', not 'x'",
        ),
        (
            {"inference": {"batch": 0}},
            "inference.batch: Input should be greater than or equal to 1, not 0",
        ),
        ({"loss": {"dice": -1}}, "loss.dice: Input should be greater than 0, not -1"),
        (
            {"oversample": {"datasets": {"a": 0}}},
            "oversample.datasets.a: Input should be greater than 0, not 0",
        ),
        ({"oversample": {"datasets": {}}}, "oversample.datasets: is empty: name at least one"),
        (
            {"oversample": {"datasets": "all"}},
            "oversample.datasets: Input should be 'test'; or Input should be a valid dictionary, "
            "not 'all'",
        ),
        (
            {"scheduler": {"name": "cosine", "minimum": 1e-3}, "learning_rate": 1e-4},
            "`scheduler.minimum: 0.001` is above `learning_rate: 0.0001`, so that the learning "
            "rate would rise: lower it",
        ),
        ({"scheduler": "exp"}, "scheduler: Input should be 'constant', 'cosine' or 'polynomial', "
         "not 'exp'"),
    ], ids=str,
)  # fmt: skip
def test_error_of_a_training_is_one_line(tmp_path, changes, message):
    with pytest.raises(InputError) as error:
        training(tmp_path, **changes)
    assert str(error.value) == f"{tmp_path / 'a.yaml'}: {message}"


def test_unknown_architecture_is_the_only_error(tmp_path):
    with pytest.raises(InputError) as error:
        training(tmp_path, model={"architecture": "nope"})
    assert ": model: there is no architecture 'nope'; choose one of" in str(error.value)
    assert str(error.value).endswith("pytc:NAME")


def test_adam_eps_without_effect_is_refused(tmp_path):
    assert training(tmp_path, adam_eps=1e-6, optimizer="adam").adam_eps == 1e-6
    with pytest.raises(InputError, match="`adam_eps: 1e-06` has no effect with `optimizer: sgd`"):
        training(tmp_path, adam_eps=1e-6, optimizer="sgd")


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weight_decay_without_effect_is_refused(tmp_path, optimizer):
    assert training(tmp_path, optimizer=optimizer).weight_decay == 0.01
    with pytest.raises(InputError, match="`weight_decay: 0.05` has no effect with `optimizer"):
        training(tmp_path, optimizer=optimizer, weight_decay=0.05)
    made = training(tmp_path, weight_decay=0.05)
    assert made.weight_decay == 0.05
    # As a checkpoint of an older version holds it.
    Training.model_validate(made.model_dump(mode="json") | {"optimizer": optimizer})


def test_window_and_context_of_a_prediction(tmp_path):
    made = training(tmp_path, inference={"overlap": 0.5})
    assert made.window == (64, 64, 64) and made.context == (16, 16, 16)
    made = training(tmp_path, inference={"window": [32, 64, 96], "overlap": 0.25})
    assert made.window == (32, 64, 96) and made.context == (4, 8, 12)


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({}, 50),
        ({"scheduler": "cosine"}, None),
        ({"scheduler": {"name": "polynomial", "warmup_steps": 10}}, None),
        ({"scheduler": "cosine", "early_stopping_patience": 7}, 7),
        ({"early_stopping_patience": 7}, 7),
        ({"validation": "none"}, None),
    ],
)
def test_a_schedule_with_an_end_is_not_stopped_before_it(tmp_path, changes, epochs):
    assert training(tmp_path, **changes).patience_epochs == epochs


@pytest.mark.parametrize(
    ("given", "dumped"),
    [
        ("a.pt", "a.pt"),
        ({"path": "a.pt", "part": "all", "at_least": 0.5}, "a.pt"),
        (
            {"path": "a.pt", "rename": {"a.": "b"}},
            {"path": "a.pt", "part": "all", "rename": {"a": "b"}, "at_least": 0.5},
        ),
        (None, None),
    ],
    ids=str,
)
def test_initial_weights_that_mean_the_same_are_dumped_as_one(tmp_path, given, dumped):
    """The params of the rule `train` are dumped settings: a plain path reruns nothing."""
    made = training(tmp_path, initial_weights=given)
    values = made.model_dump(mode="json")
    assert values["initial_weights"] == dumped
    assert Training.model_validate(values) == made
