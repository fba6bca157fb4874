"""The command: folders with a model card and descriptions that other programs read."""

import json
import socket

import numpy as np
import pytest
import torch
import yaml

from cellmap_pipeline.cli import main
from cellmap_pipeline.commands import export as command
from cellmap_pipeline.export import forms
from tests.support.exported import SMALLEST, add_checkpoint, add_datasplit, add_scores

FAST = ("--forms", "torchscript", "bioimageio")


def export(*arguments):
    return main(["export", "tiny", *arguments])


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_folder_holds_what_other_programs_need(folder, offline, capsys):
    add_checkpoint(folder, steps=1234)
    add_scores(folder, mito=0.5, pm=0.25)
    assert export(*FAST, "--license", "CC-BY-4.0", "--authors", "Ada L.", "Grace H.") == 0
    assert capsys.readouterr().out == "wrote exports/tiny\n"
    made = folder.path / "exports/tiny"
    assert sorted(path.name for path in made.iterdir()) == [
        "README.md", "bioimageio.yaml", "cover.png", "metadata.json", "model.ts",
        "test_input.npy", "test_output.npy",
    ]  # fmt: skip
    card = (made / "README.md").read_text()
    for text in (
        "Ada L., Grace H.", "1,234 steps", "8 × 8 × 8 nm", "4 · (v / 255 - 0.5)", "| a | 1 | 1 |",
        "16 × 16 × 16 voxels", "| mito | 0.500 |", "| pm | 0.250 |", "CC-BY-4.0", "`model.ts`",
        "boundary of an object of mito", "cellmap-flow opens this folder",
    ):  # fmt: skip
        assert text in card
    assert "model.onnx" not in card
    described = yaml.safe_load((made / "bioimageio.yaml").read_text())
    assert list(described["weights"]) == ["torchscript"]
    assert described["outputs"][0]["axes"][2]["halo"] == 4


def test_the_example_is_real_raw_and_its_prediction(folder):
    task = add_checkpoint(folder)
    assert export(*FAST) == 0
    made = folder.path / "exports/tiny"
    raw, probabilities = (np.load(made / f"test_{kind}put.npy") for kind in ("in", "out"))
    assert raw.shape == (1, 1, 16, 16, 16)
    assert np.array_equal(raw, np.rint(raw)) and raw.min() >= 1 and raw.max() > 200
    predict = forms.open_form("torchscript", made / "model.ts")
    assert np.array_equal(predict(torch.from_numpy(raw)).numpy(), probabilities)
    assert probabilities.shape == (1, len(task.channels), 16, 16, 16)


def test_metadata_has_the_shapes_that_cellmap_flow_multiplies(folder):
    add_checkpoint(folder)
    assert export("--forms", "torchscript") == 0
    found = json.loads((folder.path / "exports/tiny/metadata.json").read_text())
    assert found["channels_names"] == ["mito", "mito_boundary", "pm"]
    assert found["input_shape"] == found["output_shape"] == [16, 16, 16]
    assert found["input_voxel_size"] == [8, 8, 8]
    assert (found["in_channels"], found["out_channels"]) == (1, 3)


def test_voxel_sizes_with_fractions_are_not_rounded(folder):
    add_checkpoint(folder, voxel_size=[8.25, 8, 8])
    assert export("--forms", "torchscript") == 0
    made = folder.path / "exports/tiny"
    assert json.loads((made / "metadata.json").read_text())["input_voxel_size"] is None
    assert "takes voxel sizes in whole nm only" in (made / "README.md").read_text()


@pytest.mark.slow
def test_cellmap_models_opens_a_folder(folder):
    from cellmap_models.model_export import cellmap_model as models

    add_checkpoint(folder)
    assert export() == 0
    made = models.CellmapModel(str(folder.path / "exports/tiny"))
    assert made.metadata.channels_names == ["mito", "mito_boundary", "pm"]
    assert made.train() is not None


@pytest.mark.slow
def test_all_forms_are_written_and_described(folder, offline):
    add_checkpoint(folder)
    assert export() == 0
    made = folder.path / "exports/tiny"
    described = yaml.safe_load((made / "bioimageio.yaml").read_text())
    assert list(described["weights"]) == ["torchscript", "onnx"]
    card = (made / "README.md").read_text()
    for form in forms.FORMS.values():
        assert (made / form.file).is_file()
        assert f"`{form.file}`" in card
    assert "z from 4 in steps of 2" in card


def test_normalization_by_statistics_is_inside(folder):
    add_checkpoint(folder, normalize="percentile")
    assert export("--forms", "torchscript") == 0
    card = (folder.path / "exports/tiny/README.md").read_text()
    assert "an intensity v (`normalize: percentile`)" in card
    # Percentiles 0.5 and 99.5 of 1 to 254 are 2 and 253, with an eighth of their distance beyond.
    assert "4 · (clip(v, -29.375, 284.375) - 127.5) / 251" in card
    assert "the statistics of a." in card


def test_raw_that_is_normalized_in_several_ways_is_chosen(folder, capsys):
    other = folder.path / "other"
    rng = np.random.default_rng(0)
    folder.store(other, rng.integers(100, 140, (64, 64, 96)).astype(np.uint16))
    add_checkpoint(folder)
    add_datasplit(folder, second_raw=other)
    assert export("--forms", "torchscript") == 1
    assert "with --dataset, one of a" in capsys.readouterr().err
    assert export("--forms", "torchscript", "--dataset", "b") == 1
    assert "the training has no crop of 'b'; choose one of a" in capsys.readouterr().err


def test_each_fold_has_its_own_folder(folder, capsys):
    folder.configure(split={"folds": 2})
    for fold in range(2):
        add_checkpoint(folder, f"tiny/fold{fold}", validation="folds")
    assert export("--forms", "torchscript") == 0
    assert capsys.readouterr().out == "wrote exports/tiny_fold0\nwrote exports/tiny_fold1\n"
    card = (folder.path / "exports/tiny_fold1/README.md").read_text()
    assert "averages over the networks of 2 folds; this is one network in one pass" in card
    assert main(["export", "tiny/fold1", "--output", "one", "--forms", "torchscript"]) == 0
    assert [path.name for path in (folder.path / "one").iterdir()] == ["tiny_fold1"]
    assert main(["export", "tiny/fold2", "--forms", "torchscript"]) == 1
    assert "tiny has tiny/fold0, tiny/fold1" in capsys.readouterr().err


def test_bad_requests_end_with_a_message(folder, capsys):
    folder.configure_training(**SMALLEST)
    (folder.path / "results/tiny/model.ckpt").unlink()
    assert main(["export", "tinny"]) == 1
    assert "no training 'tinny' (did you mean 'tiny'?)" in capsys.readouterr().err
    assert export() == 1
    assert "results/tiny/model.ckpt does not exist: train it first" in capsys.readouterr().err
    add_checkpoint(folder)
    assert export("--forms", "bioimageio") == 1
    assert "add torchscript or onnx to --forms" in capsys.readouterr().err
    (folder.path / "exports/tiny").mkdir(parents=True)
    assert export() == 1
    assert "exports/tiny exists and is no earlier export" in capsys.readouterr().err
    (folder.path / "results/tiny/datasplit.csv").unlink()
    assert export("--output", "other", "--forms", "torchscript") == 1
    assert "datasplit.csv does not exist" in capsys.readouterr().err


def test_a_refused_description_leaves_nothing(folder, capsys):
    add_checkpoint(folder)
    assert export(*FAST, "--license", "MY-OWN") == 1
    message = capsys.readouterr().err
    assert "bioimageio.spec refuses the description of this network (license" in message
    assert not list((folder.path / "exports").glob("*"))


def test_the_command_lists_the_forms_that_exist():
    assert command.FORMS == forms.FORM_NAMES
