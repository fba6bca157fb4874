"""Reading weights of other programs."""

import numpy as np
import pytest
import pytorch_lightning
import torch

from cellmap_pipeline.config.sections import InitialWeights
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training.checkpoints import load_checkpoint
from cellmap_pipeline.training.weight_files import UnreadValue, named_weights, read_weights
from tests.support.networks import tiny_task

WEIGHT = "network.final_conv.weight"


def test_nothing_of_numpy_is_made_of_a_file(tmp_path):
    path = tmp_path / "a.pth"
    values = {"a": np.float64(0.5), "b": np.zeros(3), "c": np.dtype("O")}
    torch.save({"weight": torch.ones(2), **values}, path)
    content = read_weights(path)
    assert torch.equal(content["weight"], torch.ones(2))
    assert all(isinstance(content[key], UnreadValue) for key in values)


def test_names_of_older_numpy_are_allowed(tmp_path):
    path = tmp_path / "a.pth"
    # In this format, the file may be edited without a checksum that tells.
    torch.save({"a": np.float64(0.5)}, path, _use_new_zipfile_serialization=False)
    now, before = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert now in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(now, before))
    assert isinstance(read_weights(path)["a"], UnreadValue)


def test_files_with_code_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.ones(2), "code": print}, path)
    message = r"a.pth cannot be read as weights \(it refers to code, 'print'\)"
    with pytest.raises(InputError, match=message):
        read_weights(path)


def test_files_without_a_mapping_are_refused(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "a.pth")
    with pytest.raises(InputError, match="a.pth holds no state dict"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("rename", "name", "expected"),
    [
        ({"backbone": "encoder"}, "backbone.stem.weight", "encoder.stem.weight"),
        ({"backbone": "encoder"}, "module.backbone.stem.weight", "encoder.stem.weight"),
        ({"module.backbone": ""}, "module.backbone.stem.weight", "stem.weight"),
        ({"": "encoder"}, "stem.weight", "encoder.stem.weight"),
        ({"back": "encoder"}, "backbone.stem.weight", "backbone.stem.weight"),
        ({"a": "x", "a.b": "y"}, "a.b.weight", "y.weight"),
        ({}, "model.module.model.0.weight", "model.0.weight"),
    ],
    ids=str,
)
def test_modules_are_renamed(tmp_path, rename, name, expected):
    section = InitialWeights(path="a.pt", rename=rename)
    content = {"state_dict": {name: torch.zeros(1), "epoch": 3, 5: torch.zeros(1)}}
    named = named_weights(content, {"model.0.weight"}, section.rename, tmp_path)
    assert list(named) == [expected]


def checkpoint(**changes):
    task = tiny_task()
    return {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": pytorch_lightning.__version__,
    } | changes


def with_weight(change):
    content = checkpoint()
    content["state_dict"][WEIGHT] = change(content["state_dict"][WEIGHT])
    return content


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(3),
        [torch.ones(3)],
        {1: 2},
        checkpoint(state_dict={1: torch.ones(2)}),
        checkpoint(state_dict=None),
        checkpoint(hyper_parameters=[1]),
        checkpoint(hyper_parameters={"settings": "x"}),
        checkpoint(**{"pytorch-lightning_version": 7}),
        with_weight(lambda weight: "a"),
        with_weight(torch.Tensor.to_sparse),
        with_weight(lambda weight: weight.to(torch.complex64)),
        with_weight(lambda weight: torch.zeros(1).expand(10**6, 10**6)),
        with_weight(lambda weight: torch.empty(weight.shape, device="meta")),
    ],
    ids=lambda content: "",
)
def test_files_of_another_structure_are_no_checkpoints(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=r"x\.ckpt is not a checkpoint of this pipeline"):
        load_checkpoint(tmp_path / "x.ckpt")
