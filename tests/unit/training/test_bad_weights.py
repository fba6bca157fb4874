"""Files that are not weights of the training's network: ``check_inputs`` finds each."""

import math
import os
import pickle

import pytest
import pytorch_lightning
import torch

from tests.support.networks import tiny_task
from tests.support.spoiled import (
    CHECK,
    Folder,
    Row,
    assert_refused,
    truncate,
)

WEIGHT = "network.final_conv.weight"
TWO_NETWORKS = ["student", "teacher"]


class RunsCommand:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def use_checkpoint(folder: Folder, value: float = 0.0, **changes) -> None:
    """Predict with the checkpoint of a training with other settings, or a weight of this value."""
    task = tiny_task(**changes)
    with torch.no_grad():
        dict(task.named_parameters())[WEIGHT].view(-1)[7] = value
    content = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": pytorch_lightning.__version__,
    }
    torch.save(content, folder.path / "other.ckpt")
    folder.configure_training(inference={"checkpoint": "other.ckpt"})


def use_weights(folder: Folder, value: float) -> None:
    """Train from weights of which one has this value."""
    use_checkpoint(folder, value)
    folder.configure_training(inference={}, initial_weights="other.ckpt")


def use_bytes(folder: Folder, content: bytes, key: str = "") -> None:
    """Predict with a checkpoint of these bytes, or set `key` to it."""
    (folder.path / "other.ckpt").write_bytes(content)
    folder.configure_training(
        **({key: "other.ckpt"} if key else {"inference": {"checkpoint": "other.ckpt"}})
    )


ROWS = {
    "a file that is no checkpoint": Row(
        CHECK,
        "training tiny: inference.checkpoint: other.ckpt is not a checkpoint of this pipeline "
        "(…): give the model.ckpt that its training wrote; it holds tensors and plain settings "
        "only",
        lambda folder: use_bytes(folder, b"no checkpoint"),
    ),
    "a truncated checkpoint": Row(
        CHECK,
        "training tiny: inference.checkpoint: other.ckpt is not a checkpoint of this pipeline "
        "(…): give the model.ckpt that its training wrote; it holds tensors and plain settings "
        "only",
        lambda folder: (use_checkpoint(folder), truncate(folder.path / "other.ckpt")),
    ),
    "a pickle with code": Row(
        CHECK,
        "training tiny: inference.checkpoint: other.ckpt is not a checkpoint of this pipeline "
        "(…): give the model.ckpt that its training wrote; it holds tensors and plain settings "
        "only",
        lambda folder: use_bytes(folder, pickle.dumps({"state_dict": RunsCommand()}, protocol=2)),
    ),
    "a checkpoint of other classes": Row(
        CHECK,
        "training tiny: inference.checkpoint: other.ckpt does not predict pm of the training's "
        "`classes` and `targets`, but …: set them to what it predicts, or give another checkpoint",
        lambda folder: use_checkpoint(folder, classes=["mito", "nuc"]),
    ),
    "a checkpoint of other voxels": Row(
        CHECK,
        "training tiny: inference.checkpoint: other.ckpt was trained at [4.0, 4.0, 4.0] nm, but "
        "the training's `voxel_size` is [8.0, 8.0, 8.0]: set it to that, or give another "
        "checkpoint",
        lambda folder: use_checkpoint(folder, voxel_size=4),
    ),
    "a checkpoint with an infinite weight": Row(
        CHECK,
        f"training tiny: inference.checkpoint: other.ckpt has weights that are not finite (NaN or "
        f"infinity), first in {WEIGHT}: its training diverged; give another checkpoint",
        lambda folder: use_checkpoint(folder, math.inf),
    ),
    "initial weights with NaN": Row(
        CHECK,
        "training tiny: initial_weights: other.ckpt has weights that are not finite (NaN or "
        f"infinity), first in {WEIGHT.removeprefix('network.')}: its training diverged; give "
        "another file",
        lambda folder: use_weights(folder, math.nan),
    ),
    "initial weights with code": Row(
        CHECK,
        "training tiny: initial_weights: other.ckpt cannot be read as weights (…): give a "
        "checkpoint or a state dict saved by torch, of tensors and plain values only",
        lambda folder: use_bytes(
            folder, pickle.dumps({"state_dict": RunsCommand()}, protocol=2), "initial_weights"
        ),
    ),
    "initial weights of two networks": Row(
        CHECK,
        "training tiny: initial_weights: other.ckpt holds 'student.a' and 'teacher.a', which would "
        "both be 'encoder.a' of the network: name one of their modules in `rename`",
        lambda folder: (
            torch.save(
                {f"{name}.a": torch.zeros(3) for name in TWO_NETWORKS}, folder.path / "other.ckpt"
            ),
            folder.configure_training(
                initial_weights={
                    "path": "other.ckpt",
                    "rename": dict.fromkeys(TWO_NETWORKS, "encoder"),
                }
            ),
        ),
    ),
    "initial weights of another network": Row(
        CHECK,
        "training tiny: initial_weights: other.ckpt has 0 of this network's … weights, and at "
        "least 50% are needed: it belongs to another `model` than …, or its names (such as 'a') "
        "are others than the network's (such as 'conv_0.conv_0.conv.weight', …): see "
        "`initial_weights.rename`",
        lambda folder: (
            torch.save({"a": torch.zeros(3)}, folder.path / "other.ckpt"),
            folder.configure_training(initial_weights="other.ckpt"),
        ),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_bad_weights_are_refused(folder, row):
    assert_refused(folder, row)
