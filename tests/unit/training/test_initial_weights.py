import pytest
import torch

from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training.initial_weights import load_initial
from cellmap_pipeline.training.task import SegmentationTask
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
    load_initial(target, path)
    for one in (source, target):
        one.eval()
    with torch.no_grad():
        theirs, ours = source(raw)[0], target(raw)[0]
    for channel in ("nuc", "nuc_boundary", "er"):
        expected = theirs[source.channels.index(channel)]
        torch.testing.assert_close(ours[target.channels.index(channel)], expected)
    fresh = target.channels.index("golgi")
    assert not any(torch.allclose(ours[fresh], other) for other in theirs)


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_a_plain_state_dict(tmp_path, prefix):
    source, target = task(0), task(1)
    state = {prefix + name: value for name, value in source.network.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    load_initial(target, tmp_path / "weights.pt")
    own = target.network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in source.network.state_dict().items())


def test_fresh_weights_do_not_hang_on_it(tmp_path):
    """Building the network once more to find its output layer draws no chance."""
    path = save(task(0), tmp_path / "model.ckpt")
    target = task(1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_initial(target, path)
    assert torch.equal(torch.rand(3), expected)


def test_files_that_will_not_do(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.pt cannot be read"):
        load_initial(task(0), tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(InputError, match=r"text.pt cannot be read"):
        load_initial(task(0), tmp_path / "text.pt")
    other = save(task(0, model=MODELS[1]), tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other.ckpt has .* weights: it belongs to another"):
        load_initial(task(0), other)
