import pytest
import torch

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training.initial_weights import load_initial_weights
from cellmap_pipeline.training.task import SegmentationTask
from cellmap_pipeline.training.train import train
from tests.support.trainings import settings

MODELS = [
    {"architecture": "monai_basic_unet3d", "features": [4, 4, 4, 4, 4, 4]},
    {"architecture": "monai_dynunet", "filters": [4, 8, 8], "deep_supervision": True},
    {"architecture": "mednext", "size": "S", "deep_supervision": True},
]


def task(seed, **changes):
    torch.manual_seed(seed)
    return SegmentationTask(training_settings(settings(**changes), TRAIN_KEYS))


def save(task, path):
    checkpoint = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["architecture"])
def test_channels_are_matched_by_name(tmp_path, model):
    source = task(0, model=model, classes=["er", "mito", "nuc"])
    path = save(source, tmp_path / "model.ckpt")
    raw = torch.rand(1, 1, 32, 32, 32)
    target = task(1, model=model, classes=["nuc", "golgi", "er"])
    load_initial_weights(target, path)
    for one in (source, target):
        one.eval()
    with torch.no_grad():
        source_logits, target_logits = source(raw)[0], target(raw)[0]
    for channel in ("nuc", "nuc_boundary", "er"):
        expected = source_logits[source.channels.index(channel)]
        torch.testing.assert_close(target_logits[target.channels.index(channel)], expected)
    fresh = target.channels.index("golgi")
    assert not any(torch.allclose(target_logits[fresh], other) for other in source_logits)


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_plain_state_dict_is_loaded(tmp_path, prefix):
    source, target = task(0), task(1)
    state = {prefix + name: value for name, value in source.network.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    load_initial_weights(target, tmp_path / "weights.pt")
    own = target.network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in source.network.state_dict().items())


def test_loading_does_not_change_the_random_state(tmp_path):
    """Building the network again to find its output layer leaves the generator as it was."""
    path = save(task(0), tmp_path / "model.ckpt")
    target = task(1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_initial_weights(target, path)
    assert torch.equal(torch.rand(3), expected)


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.pt cannot be read"):
        load_initial_weights(task(0), tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(InputError, match=r"text.pt cannot be read"):
        load_initial_weights(task(0), tmp_path / "text.pt")
    other = save(task(0, model=MODELS[1]), tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other.ckpt has .* weights: it belongs to another"):
        load_initial_weights(task(0), other)


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_training_starts_from_initial_weights(datasplit, tmp_path):
    train(settings(), datasplit, tmp_path / "training", tmp_path / "first.ckpt")
    begun = settings(initial_weights=str(tmp_path / "first.ckpt"), learning_rate=1e-9, epochs=1)
    train(begun, datasplit, tmp_path / "next", tmp_path / "second.ckpt")
    first, second = weights(tmp_path / "first.ckpt"), weights(tmp_path / "second.ckpt")
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-5)


def test_other_initial_weights_start_a_new_training(datasplit, tmp_path):
    for seed in (1, 2):
        train(settings(seed=seed, epochs=1), datasplit, tmp_path / "first", tmp_path / "first.ckpt")
        begun = settings(initial_weights=str(tmp_path / "first.ckpt"), epochs=1)
        train(begun, datasplit, tmp_path / "next", tmp_path / "second.ckpt")
    assert (tmp_path / "next.old-1/checkpoints/last.ckpt").is_file()
    with pytest.raises(InputError, match="initial_weights: none.pt cannot be read: No such file"):
        train(settings(initial_weights="none.pt"), datasplit, tmp_path / "n", tmp_path / "m.ckpt")
