import logging

import numpy as np
import pytest
import torch

from cellmap_pipeline.config.sections import InitialWeights
from cellmap_pipeline.config.stages import TRAIN_KEYS, training_settings
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.models.build import build_model
from cellmap_pipeline.training.initial_weights import load_initial_weights
from cellmap_pipeline.training.task import SegmentationTask
from cellmap_pipeline.training.train import train
from tests.support.trainings import settings

MODELS = [
    {"architecture": "monai_basic_unet3d", "features": [4, 4, 4, 4, 4, 4]},
    {"architecture": "monai_dynunet", "filters": [4, 8, 8], "deep_supervision": True},
    {"architecture": "mednext", "size": "S", "deep_supervision": True},
    {"architecture": "nnunet_resenc", "features": 4},
]
NNUNET = MODELS[-1]
# Its names begin with a prefix that frameworks add, too.
MONAI_UNET = {"architecture": "monai_unet", "channels": [4, 8, 8]}


def task(seed, **changes):
    torch.manual_seed(seed)
    return SegmentationTask(training_settings(settings(**changes), TRAIN_KEYS))


def save(task, path):
    checkpoint = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    torch.save(checkpoint, path)
    return path


def load(target, path, **changes):
    load_initial_weights(target, InitialWeights(path=str(path), **changes))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["architecture"])
def test_channels_are_matched_by_name(tmp_path, model, caplog):
    source = task(0, model=model, classes=["er", "mito", "nuc"])
    path = save(source, tmp_path / "model.ckpt")
    raw = torch.rand(1, 1, 32, 32, 32)
    target = task(1, model=model, classes=["nuc", "golgi", "er"])
    with caplog.at_level(logging.INFO):
        load(target, path)
    assert "output channels that start anew: golgi\n" in caplog.text
    for one in (source, target):
        one.eval()
    with torch.no_grad():
        source_logits, target_logits = source(raw)[0], target(raw)[0]
    for channel in ("nuc", "nuc_boundary", "er"):
        expected = source_logits[source.channels.index(channel)]
        torch.testing.assert_close(target_logits[target.channels.index(channel)], expected)
    fresh = target.channels.index("golgi")
    assert not any(torch.allclose(target_logits[fresh], other) for other in source_logits)


def test_outputs_are_matched_by_atom(tmp_path, caplog):
    """An atom is that of the classes that contain it; a class of its own is none."""
    classes, targets = ["mito", "mito_mem", "ecs"], {"mito": []}
    source = task(0, classes=classes, targets=targets,
                  hierarchy=[["mito", "mito_mem"], ["mito"], ["ecs"]])  # fmt: skip
    target = task(1, classes=classes, targets=targets,
                  hierarchy=[["ecs"], ["mito_mem", "mito"]])  # fmt: skip
    independent = task(1, classes=classes, targets=targets)
    path = save(source, tmp_path / "model.ckpt")
    load(target, path)
    raw = torch.rand(1, 1, 32, 32, 32)
    for one in (source, target):
        one.eval()
    with torch.no_grad():
        source_outputs, target_outputs = source.outputs(raw)[0], target.outputs(raw)[0]
    names = ["atom:mito+mito_mem", "atom:mito", "atom:ecs", "atom:none"]
    assert source.training_settings.outputs == names
    for i, name in enumerate(["atom:ecs", "atom:mito+mito_mem", "atom:none"]):
        torch.testing.assert_close(target_outputs[i], source_outputs[names.index(name)])
    with caplog.at_level(logging.INFO):
        load(independent, path)
    assert "of other output channels" in caplog.text


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_plain_state_dict_is_loaded(tmp_path, prefix):
    source, target = task(0), task(1)
    state = {prefix + name: value for name, value in source.network.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    load(target, tmp_path / "weights.pt")
    own = target.network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in source.network.state_dict().items())


def test_names_of_the_network_keep_their_prefix(tmp_path):
    source, target = task(0, model=MONAI_UNET), task(1, model=MONAI_UNET)
    load(target, save(source, tmp_path / "model.ckpt"), at_least=1.0)
    own = target.network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in source.network.state_dict().items())


def test_loading_does_not_change_the_random_state(tmp_path):
    """Building the network again to find its output layer leaves the generator as it was."""
    path = save(task(0), tmp_path / "model.ckpt")
    target = task(1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(target, path)
    assert torch.equal(torch.rand(3), expected)


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.pt cannot be read"):
        load(task(0), tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(InputError, match=r"text.pt cannot be read"):
        load(task(0), tmp_path / "text.pt")
    other = save(task(0, model=MODELS[1]), tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other.ckpt has .* 50% are needed: it belongs to"):
        load(task(0), other)


def nnunet_checkpoint(task, path, **changes):
    """Save a network as nnU-Net's trainer does, with its scores as NumPy's numbers."""
    content = {
        "network_weights": task.network.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "logging": {"ema_fg_dice": [np.float64(0.5)], "val_losses": [np.float32(1)]},
        "_best_ema": np.float64(0.5),
        "scores": np.zeros(3),
        "init_args": {"fold": np.int64(0), "device": torch.device("cpu")},
    }
    torch.save(content | changes, path)
    return path


def test_checkpoints_of_nnunet_fit_but_for_their_output_layers(tmp_path, caplog):
    source = task(0, model=NNUNET)
    path = nnunet_checkpoint(source, tmp_path / "checkpoint_final.pth")
    target = task(1, model=NNUNET)
    before = target.network.decoder.seg_layers[-1].weight.clone()
    with caplog.at_level(logging.INFO):
        load(target, path)
    assert torch.equal(target.network.decoder.seg_layers[-1].weight, before)
    trained = {k: v for k, v in source.network.state_dict().items() if "seg_layers" not in k}
    own = target.network.state_dict()
    assert len(trained) > 100
    assert all(torch.equal(own[k], v) for k, v in trained.items())
    assert "6 tensors of other output channels: 'decoder.seg_layers.0.weight'" in caplog.text


def test_encoder_alone_is_taken_of_a_file_and_enough_of_it_is_asked_for(tmp_path, caplog):
    """As of a masked autoencoder: an encoder under another name, and a decoder that is none."""
    source = task(0, model=NNUNET)
    encoder = source.network.encoder.state_dict()
    weights = {f"module.sparse_encoder.sp_cnn.{name}": value for name, value in encoder.items()}
    weights |= {"module.dense_decoder.proj.weight": torch.zeros(3), "module.mask": torch.zeros(2)}
    path = tmp_path / "learner.ckpt"
    torch.save({"current_iter": 7, "model_weights": weights}, path)
    rename = {"sparse_encoder.sp_cnn": "encoder"}
    target = task(1, model=NNUNET)
    with caplog.at_level(logging.INFO):
        load(target, path, part="encoder", rename=rename, at_least=1.0)
    own = target.network.encoder.state_dict()
    assert all(torch.equal(own[name], value) for name, value in encoder.items())
    assert "2 tensors not in the network: 'dense_decoder.proj.weight', 'mask'" in caplog.text
    load(task(1, model=NNUNET), path, rename=rename)
    with pytest.raises(InputError, match=r"and at least 99% are needed.* see `initial_weights.ren"):
        load(task(1, model=NNUNET), path, rename=rename, at_least=0.99)
    message = r"has 0 of .* \(such as 'sparse_encoder.*\) are others .* \(such as 'encoder.stem"
    with pytest.raises(InputError, match=message):
        load(task(1, model=NNUNET), path, part="encoder", at_least=0.3)


def test_decoder_of_the_file_is_left_out_with_the_encoder_only(tmp_path, caplog):
    path = save(task(0, model=NNUNET), tmp_path / "model.ckpt")
    target = task(1, model=NNUNET)
    before = target.network.decoder.stages.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    with caplog.at_level(logging.INFO):
        load(target, path, part="encoder")
    after = target.network.decoder.stages.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert "tensors not of the encoder: 'decoder.stages.0" in caplog.text


@pytest.mark.parametrize("model", [*MODELS, MONAI_UNET], ids=lambda model: model["architecture"])
def test_first_convolutions_are_summed_over_input_channels(tmp_path, model):
    """Three channels of the same image give the same logits as the one channel of raw."""
    target = task(1, model=model)
    settings = target.training_settings
    torch.manual_seed(0)
    colored = build_model(
        settings.model, 3, len(target.channels), settings.patch_size, settings.voxel_size
    )
    torch.save(colored.state_dict(), tmp_path / "colored.pt")
    load(target, tmp_path / "colored.pt", at_least=1.0)
    raw = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        expected = colored.eval()(raw.expand(-1, 3, -1, -1, -1))
        torch.testing.assert_close(target.network.eval()(raw), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3),
        torch.zeros(4, 1, 3, 3, 3, dtype=torch.int8),
        torch.zeros(4, 1, 3, 3, 3).to_sparse(),
        torch.zeros(4, 1, 3, 3, 3, device="meta"),
        torch.zeros(4, 1, 3, 3, 3, dtype=torch.complex64),
    ],
    ids=["shape", "int8", "sparse", "meta", "complex"],
)
def test_tensors_that_do_not_fit_are_left_out(tmp_path, value):
    source, target = task(0), task(1)
    name = "conv_0.conv_0.conv.weight"
    before = target.network.state_dict()[name].clone()
    torch.save(source.network.state_dict() | {name: value}, tmp_path / "weights.pt")
    load(target, tmp_path / "weights.pt")
    assert torch.equal(target.network.state_dict()[name], before)


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
