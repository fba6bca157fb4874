"""Checkpoints: where they are written, which are chosen, and whether they match the training."""

import errno
import json
import os
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning
import torch

from cellmap_pipeline.config.sections import Inference, InitialWeights
from cellmap_pipeline.config.stages import NETWORK_KEYS, training_settings
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.raw_statistics import measure_raw, write_raw_statistics
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.prediction.predict import predict_crop
from cellmap_pipeline.training.checkpoints import (
    CheckpointFiles,
    best_checkpoints,
    check_matches,
    export_checkpoint,
    load_checkpoint,
    load_networks,
    write_checkpoint,
)
from cellmap_pipeline.training.initial_weights import load_initial_weights
from cellmap_pipeline.training.train import train
from tests.support.networks import tiny_task
from tests.support.trainings import all_train, make_datasplit, settings

MADE = settings(epochs=4, inference={"checkpoints": 3})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(MADE, make_datasplit(folder), folder / "training", folder / "model.ckpt")
    return folder


def load(folder, **inference):
    expected = training_settings(MADE, NETWORK_KEYS)
    return load_networks(folder / "model.ckpt", Inference(**inference), expected)


def test_offsets_that_symmetries_need_are_named_before_a_prediction(tmp_path):
    """The checkpoint learned affinities that the training's file does not list."""
    nearest = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    task = tiny_task(targets={"mito": [{"affinities": [*nearest, [0, 6, 6]]}]})
    content = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": pytorch_lightning.__version__,
    }
    torch.save(content, tmp_path / "model.ckpt")
    own = task.training_settings.model_dump(mode="json")
    expected = {key: own[key] for key in NETWORK_KEYS} | {"targets": {"mito": ["affinities"]}}
    assert load_networks(tmp_path / "model.ckpt", Inference(), expected)
    with pytest.raises(InputError, match=r"model\.ckpt: .*symmetries: 8.*add \[0, 6, -6\]"):
        load_networks(tmp_path / "model.ckpt", Inference(symmetries=8), expected)


def first_weight(task):
    return next(task.parameters())


def test_best_three_best_and_last_checkpoints_can_be_loaded(trained):
    (best,) = load(trained)
    three = load(trained, checkpoints=3)
    assert len(three) == 3
    assert any(torch.equal(first_weight(best), first_weight(task)) for task in three)
    assert len({first_weight(task).sum().item() for task in three}) == 3
    (last,) = load(trained, checkpoint="last")
    stored = torch.load(trained / "training/checkpoints/last.ckpt", weights_only=True)
    name, weight = next(iter(stored["state_dict"].items()))
    assert torch.equal(last.state_dict()[name], weight)


def test_probabilities_of_several_networks_are_averaged(trained, tmp_path):
    grid = Grid((8, 8, 8), (0, 0, 0), (32, 32, 32))
    raw = Volume.open(trained / "raw1")
    rows = [CropLabel(1, "d", "mito", grid)]
    three = load(trained, checkpoints=3)
    inference = Inference(overlap=0)
    found = []
    for name, tasks in (("all", three), *((str(i), [task]) for i, task in enumerate(three))):
        predict_crop(tasks, raw, rows, tmp_path / name, inference)
        level = Volume.open(tmp_path / name / "mito").levels[0]
        found.append(level.array.read(order="C").result().astype(float))
    together, *single = found
    assert np.abs(together - np.mean(single, axis=0)).max() <= 1
    assert np.std(single, axis=0).max() > 1


def test_best_checkpoints_are_chosen_by_dice_then_epoch(tmp_path):
    for name in ("0-0.5000", "1-0.7000", "2-0.7000", "10-0.9000", "last"):
        (tmp_path / f"{name}.ckpt").touch()
    assert [p.stem for p in best_checkpoints(tmp_path, 3)] == ["10-0.9000", "1-0.7000", "2-0.7000"]
    with pytest.raises(InputError, match="5 are requested, but .* holds 4"):
        best_checkpoints(tmp_path, 5)


def test_a_checkpoint_with_nan_is_not_exported(tmp_path):
    weights = {"a": torch.zeros(3), "steps": torch.tensor(1), "b": torch.tensor([1, torch.nan])}
    torch.save({"state_dict": weights}, tmp_path / "0-0.1000.ckpt")
    with pytest.raises(InputError, match=r"0-0.1000.ckpt has weights .* first in b: lower"):
        export_checkpoint(tmp_path / "0-0.1000.ckpt", tmp_path / "model.ckpt")
    assert not (tmp_path / "model.ckpt").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["mito", "er"]}, "does not predict er .* but mito, mito_boundary, pm"),
        ({"targets": {"mito": ["distance"]}}, "does not predict mito_distance"),
        ({"normalize": "zscore"}, "trained with `normalize: range`, but .* is zscore: set it to"),
        ({"voxel_size": [8, 8, 4]}, r"trained at \[8.0, 8.0, 8.0\] nm, but .* \[8, 8, 4\]"),
    ],
    ids=str,
)
def test_checkpoint_that_does_not_match_the_training_is_refused(tmp_path, changes, message):
    expected = {
        "classes": ["mito", "pm"],
        "targets": {},
        "voxel_size": [8, 8, 8],
        "normalize": "range",
    }
    check_matches(tmp_path / "model.ckpt", tiny_task(), expected)
    with pytest.raises(InputError, match=message):
        check_matches(tmp_path / "model.ckpt", tiny_task(), expected | changes)


def test_a_training_may_use_some_classes_of_a_checkpoint(tmp_path):
    expected = {"classes": ["pm"], "targets": {}, "voxel_size": [8, 8, 8], "normalize": "range"}
    check_matches(tmp_path / "model.ckpt", tiny_task(), expected)


def test_normalization_comes_from_the_checkpoint(trained, tmp_path):
    content = torch.load(trained / "model.ckpt", weights_only=True)
    content["normalisation"] = [0.25, 2.0]
    torch.save(content, tmp_path / "model.ckpt")
    (own,), (other,) = load(trained), load(tmp_path)
    raw = torch.rand(1, 1, 32, 32, 32)
    assert torch.allclose(other(raw), own((raw - 0.25) / 2 + 0.5), atol=1e-5)


def test_statistics_of_raw_are_kept_and_changed_ones_train_anew(tmp_path):
    training, datasplit = settings(normalize="zscore", epochs=1), make_datasplit(tmp_path)
    paths = [tmp_path / "raw1", tmp_path / "raw2"]
    volumes = {str(path): measure_raw(Volume.open(path)) for path in paths}
    statistics, checkpoint = tmp_path / "raw_statistics.json", tmp_path / "model.ckpt"

    def run():
        write_raw_statistics(statistics, volumes)
        train(
            training, datasplit, tmp_path / "training", checkpoint, raw_statistics=statistics
        )  # fmt: skip

    run()
    task = load_checkpoint(checkpoint)
    assert task.training_settings.normalize == "zscore"
    assert task.raw_statistics == json.loads(statistics.read_text())
    assert not (tmp_path / "training.old-1").exists()
    run()
    assert not (tmp_path / "training.old-1").exists()
    level = volumes[str(paths[0])]["s0"]
    volumes[str(paths[0])] = {"s0": replace(level, mean=level.mean / 2)}
    run()
    assert (tmp_path / "training.old-1").exists()


def test_training_without_the_statistics_that_it_needs_is_refused(tmp_path):
    training, datasplit = settings(normalize="percentile"), make_datasplit(tmp_path)
    with pytest.raises(InputError, match="`normalize: percentile` needs the statistics of"):
        train(training, datasplit, tmp_path / "training", tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("inference", "message"),
    [({"checkpoint": "last", "checkpoints": 2}, "takes `inference.checkpoint: best`"),
     ({"checkpoints": 4}, "needs `save_top_k: 4`")], ids=str,
)  # fmt: skip
def test_checkpoints_that_cannot_be_averaged_are_refused(inference, message):
    with pytest.raises(ValueError, match=message):
        settings(inference=inference)


def test_checkpoint_of_a_version_without_the_key_validation_is_loaded(trained, tmp_path):
    content = torch.load(trained / "model.ckpt", weights_only=True)
    del content["hyper_parameters"]["settings"]["validation"]
    torch.save(content, tmp_path / "model.ckpt")
    assert load_checkpoint(tmp_path / "model.ckpt").training_settings.validation == "held_out"


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_without_validation_best_and_last_are_the_same(tmp_path, checkpoint):
    training = settings(validation="none")
    datasplit = all_train(make_datasplit(tmp_path))
    train(training, datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    (task,) = load(tmp_path, checkpoint=checkpoint)
    stored = torch.load(tmp_path / "training/checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(task.state_dict()[k], v) for k, v in stored["state_dict"].items())


def test_checkpoints_are_written_in_their_own_folder(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "TMPDIR")

    monkeypatch.setattr(tempfile, "mkstemp", fail)
    path = tmp_path / "checkpoints/last.ckpt"
    CheckpointFiles().save_checkpoint({"a": torch.arange(3)}, path)
    assert CheckpointFiles().load_checkpoint(path, weights_only=True)["a"].tolist() == [0, 1, 2]
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_a_checkpoint_that_cannot_be_written_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    write_checkpoint({"a": 1}, path)

    def fail(content, file):
        file.write(b"half")
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="quota"):
        write_checkpoint({"a": 2}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize(
    "load",
    [
        load_checkpoint,
        lambda path: load_initial_weights(tiny_task(), InitialWeights(path=str(path))),
    ],
)
def test_file_that_cannot_be_read_now_is_not_reported_as_broken(tmp_path, monkeypatch, load):
    path = tmp_path / "model.ckpt"
    write_checkpoint({"state_dict": {}}, path)

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UnavailableError, match="model.ckpt cannot be read now .Input/output error"):
        load(path)
