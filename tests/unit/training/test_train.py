import csv
import pickle

import pytest
import torch

from cellmap_pipeline.config.training import Scheduler
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.patches.sampling import RandomPatches
from cellmap_pipeline.training.checkpoints import load_checkpoint
from cellmap_pipeline.training.optimizers import rate_at
from cellmap_pipeline.training.train import train
from tests.support.trainings import make_datasplit, settings


@pytest.fixture
def datasplit(tmp_path):
    return make_datasplit(tmp_path)


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def rows(state):
    return list(csv.DictReader((state / "metrics.csv").open()))


def test_it_learns_and_the_checkpoint_is_enough_to_predict_with(datasplit, tmp_path):
    train(settings(epochs=8), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    dice = [float(row["val_dice"]) for row in rows(tmp_path / "training") if row["val_dice"]]
    assert len(dice) == 8
    assert max(dice) > 0.5
    task = load_checkpoint(tmp_path / "model.ckpt")
    assert task.training_settings.classes == ["mito"]
    assert task.channels == ["mito", "mito_boundary"]
    assert task(torch.rand(1, 1, 32, 32, 32)).shape == (1, 2, 32, 32, 32)
    kept = {path.name for path in (tmp_path / "training/checkpoints").iterdir()}
    assert "last.ckpt" in kept and len(kept) == 4
    assert (tmp_path / "training/tensorboard").is_dir()


def test_more_epochs_go_on_and_give_what_one_run_gives(datasplit, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    train(settings(epochs=4), datasplit, whole / "training", whole / "model.ckpt")
    train(settings(epochs=2), datasplit, parts / "training", parts / "model.ckpt")
    train(settings(epochs=4), datasplit, parts / "training", parts / "model.ckpt")
    last = "training/checkpoints/last.ckpt"
    one, other = weights(whole / last), weights(parts / last)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert [row["epoch"] for row in rows(parts / "training")] == ["0", "1", "2", "3"]


def test_each_epoch_sees_other_patches(datasplit, tmp_path, monkeypatch):
    drawn = []
    read = RandomPatches.read
    monkeypatch.setattr(
        RandomPatches,
        "read",
        lambda self, number: (drawn.append(number), read(self, number))[1],
    )
    train(settings(epochs=2), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    assert sorted(set(drawn)) == list(range(8))


def test_other_settings_start_afresh(datasplit, tmp_path):
    train(settings(), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    train(settings(seed=1), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    assert (tmp_path / "training.old-1/checkpoints/last.ckpt").is_file()
    assert len(rows(tmp_path / "training")) == len(rows(tmp_path / "training.old-1"))


def test_schedules():
    made = settings(learning_rate=1.0, scheduler={"name": "cosine", "minimum": 0.1})
    assert rate_at(0, 100, made) == 1
    assert rate_at(50, 100, made) == pytest.approx(0.55)
    assert rate_at(100, 100, made) == pytest.approx(0.1)
    warm = made.model_copy(update={"scheduler": Scheduler(warmup_steps=9)})
    assert [rate_at(step, 100, warm) for step in (0, 4, 9, 99)] == [0.1, 0.5, 1, 1]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"state_dict": 1})])
def test_files_that_are_no_checkpoints(tmp_path, content):
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="model.ckpt"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"state_dict": {}, "hyper_parameters": Evil()}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match="model.ckpt"):
        load_checkpoint(tmp_path / "model.ckpt")
    assert not (tmp_path / "ran").exists()
