"""The best checkpoints of a training whose folder was moved."""

from pathlib import Path

import pytest
import torch

from cellmap_pipeline.training.callbacks import BestCheckpoints

DICE = {"3-0.5000.ckpt": 0.5, "1-0.7000.ckpt": 0.7, "4-0.6000.ckpt": 0.6}


def best_in(folder: Path) -> BestCheckpoints:
    callback = BestCheckpoints(folder, 3)
    folder.mkdir(exist_ok=True)
    for name in DICE:
        (folder / name).touch()
    return callback


def state_in(folder: Path) -> dict:
    """Return the state as Lightning wrote it, with the paths of `folder`."""
    best, worst = folder / "1-0.7000.ckpt", folder / "3-0.5000.ckpt"
    return {
        "monitor": "val_dice",
        "best_model_score": torch.tensor(0.7),
        "best_model_path": str(best),
        "current_score": torch.tensor(0.6),
        "dirpath": str(folder),
        "best_k_models": {str(folder / name): torch.tensor(dice) for name, dice in DICE.items()},
        "kth_best_model_path": str(worst),
        "kth_value": torch.tensor(0.5),
        "last_model_path": "",
    }


def test_state_contains_no_path_of_a_folder(tmp_path):
    callback = best_in(tmp_path / "checkpoints")
    callback.load_state_dict(state_in(tmp_path / "checkpoints"))
    state = callback.state_dict()
    assert str(tmp_path) not in str(state)
    assert {name: round(float(dice), 6) for name, dice in state["best_k_models"].items()} == DICE
    assert state["best_model_path"] == "1-0.7000.ckpt"
    assert state["kth_best_model_path"] == "3-0.5000.ckpt"


@pytest.mark.parametrize("old", [True, False], ids=["absolute paths", "names"])
def test_best_checkpoints_are_found_after_a_move(tmp_path, old):
    """States of older versions have absolute paths."""
    before = best_in(tmp_path / "before")
    before.load_state_dict(state_in(tmp_path / "before"))
    state = state_in(tmp_path / "before") if old else before.state_dict()
    (tmp_path / "before").rename(tmp_path / "after")
    callback = best_in(tmp_path / "after")
    callback.load_state_dict(state)
    folder = tmp_path / "after"
    assert list(callback.best_k_models) == [str(folder / name) for name in DICE]
    assert callback.best_model_path == str(folder / "1-0.7000.ckpt")
    assert callback.kth_best_model_path == str(folder / "3-0.5000.ckpt")
    assert float(callback.best_model_score) == pytest.approx(0.7)
    assert float(callback.kth_value) == 0.5


def test_checkpoints_removed_by_a_killed_job_are_forgotten(tmp_path):
    callback = best_in(tmp_path)
    (tmp_path / "1-0.7000.ckpt").unlink()
    callback.load_state_dict(state_in(tmp_path))
    assert callback.best_model_path == str(tmp_path / "4-0.6000.ckpt")
    assert len(callback.best_k_models) == 2
