import csv
import math
import os
import pickle
import tempfile

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.patches.crops import CropData, TaughtCrop, open_crops
from cellmap_pipeline.patches.sampling import RandomPatches
from cellmap_pipeline.training import train as module
from cellmap_pipeline.training.checkpoints import load_checkpoint
from cellmap_pipeline.training.interruption import LastCheckpoint
from cellmap_pipeline.training.task import SegmentationTask
from cellmap_pipeline.training.train import balanced_weights, train
from tests.support.trainings import GRID, all_train, settings


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def rows(state):
    return list(csv.DictReader((state / "metrics.csv").open()))


def test_training_learns_and_its_checkpoint_suffices_to_predict(datasplit, tmp_path):
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


def test_without_any_class_in_validation_the_loss_decides(datasplit, tmp_path, caplog):
    nothing = np.zeros(GRID.shape, np.uint8)
    for number in (1, 2):
        create(tmp_path / f"crop{number}/mito", GRID, "uint8").write(nothing).result()
    train(settings(epochs=4), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    losses = [float(row["val_loss"]) for row in rows(tmp_path / "training")]
    assert [float(row["val_dice"]) for row in rows(tmp_path / "training")] == [-v for v in losses]
    assert min(losses) < losses[0]
    best = losses.index(min(losses))
    names = os.listdir(tmp_path / "training/checkpoints")
    (kept,) = [name for name in names if name.startswith(f"{best}-")]
    exported, of_epoch = (
        weights(tmp_path / "model.ckpt"),
        weights(tmp_path / "training/checkpoints" / kept),
    )
    assert all(torch.equal(exported[key], of_epoch[key]) for key in exported)
    assert caplog.text.count("no validation patch has a voxel of any class") == 1


def test_without_validation_the_last_weights_are_exported(datasplit, tmp_path):
    training = settings(epochs=4, validation="none")
    train(training, all_train(datasplit), tmp_path / "training", tmp_path / "model.ckpt")
    table = rows(tmp_path / "training")
    assert [row["epoch"] for row in table] == ["0", "1", "2", "3"]
    assert "train_loss" in table[0] and not [key for key in table[0] if key.startswith("val")]
    exported, last = (
        weights(tmp_path / name) for name in ("model.ckpt", "training/checkpoints/last.ckpt")
    )
    assert all(torch.equal(exported[key], last[key]) for key in last)
    kept = sorted(path.name for path in (tmp_path / "training/checkpoints").iterdir())
    assert kept == ["1.ckpt", "2.ckpt", "3.ckpt", "last.ckpt"]
    events = EventAccumulator(str(tmp_path / "training/tensorboard")).Reload()
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("val")]


def test_without_validation_all_crops_are_trained_on(datasplit, tmp_path, monkeypatch):
    read: set[str] = set()
    draw = RandomPatches._draw_location

    def keep(self, *args):
        reader, start = draw(self, *args)
        read.add(reader.crop.label_folder.name)
        return reader, start

    monkeypatch.setattr(RandomPatches, "_draw_location", keep)
    training = settings(validation="none", epochs=1, iterations_per_epoch=16)
    train(training, all_train(datasplit), tmp_path / "training", tmp_path / "model.ckpt")
    assert read == {"crop1", "crop2"}


def test_crops_to_validate_on_are_needed_unless_validation_is_none(datasplit, tmp_path):
    with pytest.raises(InputError, match="no row for 'validate': it needs both"):
        train(settings(), all_train(datasplit), tmp_path / "training", tmp_path / "model.ckpt")


def test_fewer_epochs_than_were_trained_are_refused(datasplit, tmp_path):
    state, checkpoint = tmp_path / "training", tmp_path / "model.ckpt"
    train(settings(epochs=2), datasplit, state, checkpoint)
    checkpoint.unlink()
    with pytest.raises(InputError, match=r"steps, but `epochs: 1` are .*: raise `epochs`, or move"):
        train(settings(epochs=1), datasplit, state, checkpoint)
    train(settings(epochs=2), datasplit, state, checkpoint)
    assert checkpoint.exists()


def test_a_training_extended_to_more_epochs_equals_one_run(datasplit, tmp_path, monkeypatch):
    """Its folder may be moved in between, and no checkpoint is written to TMPDIR first."""
    monkeypatch.setattr(tempfile, "mkstemp", None)
    whole, parts, begun = tmp_path / "whole", tmp_path / "parts", tmp_path / "begun"
    whole.mkdir()
    begun.mkdir()
    train(settings(epochs=4), datasplit, whole / "training", whole / "model.ckpt")
    train(settings(epochs=2), datasplit, begun / "training", begun / "model.ckpt")
    begun.rename(parts)
    train(settings(epochs=4), datasplit, parts / "training", parts / "model.ckpt")
    for name in ("training/checkpoints/last.ckpt", "model.ckpt"):
        one, other = weights(whole / name), weights(parts / name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    kept = [sorted(os.listdir(folder / "training/checkpoints")) for folder in (whole, parts)]
    assert kept[0] == kept[1] and len(kept[0]) == 4
    state = (parts / "training/checkpoints/last.ckpt").read_bytes()
    assert str(tmp_path).encode() not in state
    assert [row["epoch"] for row in rows(parts / "training")] == ["0", "1", "2", "3"]


def test_each_epoch_sees_new_patches(datasplit, tmp_path, monkeypatch):
    drawn = []
    read = RandomPatches.read
    monkeypatch.setattr(
        RandomPatches,
        "read",
        lambda self, index: (drawn.append(index), read(self, index))[1],
    )
    train(settings(epochs=2), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    assert sorted(set(drawn)) == list(range(8))


def test_other_settings_start_a_new_training(datasplit, tmp_path):
    train(settings(), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    train(settings(seed=1), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    assert (tmp_path / "training.old-1/checkpoints/last.ckpt").is_file()
    assert len(rows(tmp_path / "training")) == len(rows(tmp_path / "training.old-1"))


def test_other_pseudo_labels_start_a_new_training(datasplit, tmp_path, monkeypatch):
    """A part of the patches is drawn from the crop with what is around it."""
    (crop,) = open_crops(datasplit, ["mito"], (8, 8, 8))["train"]
    folder = tmp_path / "pseudo_labels"
    (folder / crop.dataset).mkdir(parents=True)
    create(folder / crop.name / "mito", GRID, "uint8").write(np.ones(GRID.shape, "u1")).result()
    read: list[type] = []
    draw = RandomPatches._draw_location

    def keep(self, *args):
        reader, start = draw(self, *args)
        read.append(type(reader.crop))
        return reader, start

    monkeypatch.setattr(RandomPatches, "_draw_location", keep)
    made = settings(epochs=1, iterations_per_epoch=10, teach={"from": "teacher", "share": 0.5})
    for digest in ("one", "one", "other"):
        (folder / "summary.json").write_text(digest)
        train(made, datasplit, tmp_path / "training", tmp_path / "model.ckpt", pseudo_labels=folder)
    assert {CropData, TaughtCrop} == set(read)
    assert (tmp_path / "training.old-1").is_dir()
    assert not (tmp_path / "training.old-2").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"state_dict": 1})])
def test_files_that_are_not_checkpoints_are_refused(tmp_path, content):
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


def test_tensorboard_and_metrics_agree(datasplit, tmp_path):
    train(settings(), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    events = EventAccumulator(str(tmp_path / "training/tensorboard")).Reload()
    with (tmp_path / "training/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for tag in ("train_loss", "val_loss", "val_dice", "val_dice/mito", "val_dice/mito_boundary",
                "patches_per_second", "data_wait"):  # fmt: skip
        shown = [event.value for event in events.Scalars(tag)]
        assert shown == pytest.approx([float(row[tag]) for row in rows]), tag
    assert len(events.Scalars("train_loss_step")) == 4
    rate = [tag for tag in events.Tags()["scalars"] if tag.startswith("lr-")]
    assert {event.step for event in events.Scalars(rate[0])} == {0, 1, 2, 3}
    images = events.Images("raw, ground truth, prediction")
    assert len(images) == 2
    assert (images[0].height, images[0].width) == (32, 3 * 32 + 2 * 4)
    assert all(0 <= float(row["data_wait"]) <= 1 for row in rows)
    assert all(float(row["patches_per_second"]) > 0 for row in rows)


def test_same_seed_gives_the_same_curve(datasplit, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        train(settings(), datasplit, tmp_path / name / "training", tmp_path / name / "model.ckpt")
    one, other = ((tmp_path / n / "training/metrics.csv").read_text() for n in ("one", "other"))
    curves = [[row["train_loss"] for row in csv.DictReader(text.splitlines())] for text in
              (one, other)]  # fmt: skip
    assert curves[0] == curves[1] and len(set(curves[0])) == 2


@pytest.mark.parametrize("validation", ["held_out", "none"])
def test_exported_checkpoint_has_averaged_weights(datasplit, tmp_path, monkeypatch, validation):
    """After two steps, a decay of 0.9 gives 0.9 of the first weights and 0.1 of the second."""
    steps = []
    hook = LastCheckpoint.on_train_batch_end

    def keep(self, trainer, task, *args):
        steps.append({k: v.clone() for k, v in task.state_dict().items()})
        return hook(self, trainer, task, *args)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", keep)
    training = settings(
        ema=0.9, epochs=1, iterations_per_epoch=2, accumulate_grad_batches=1, validation=validation
    )
    if validation == "none":
        datasplit = all_train(datasplit)
    train(training, datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    average = weights(tmp_path / "model.ckpt")
    for key, value in average.items():
        expected = 0.9 * steps[0][key] + 0.1 * steps[1][key]
        torch.testing.assert_close(value, expected)
    assert load_checkpoint(tmp_path / "model.ckpt").channels == ["mito", "mito_boundary"]


def test_compiled_network_is_saved_without_prefixes(datasplit, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    train(settings(compile=True), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    assert len(compiled) == 1
    assert "network.conv_0.conv_0.conv.weight" in weights(tmp_path / "model.ckpt")


def test_non_finite_validation_stops_the_training(datasplit, tmp_path, monkeypatch):
    outputs = SegmentationTask.outputs

    def spoiled(self, raw):
        values = outputs(self, raw)
        return values if self.training else values * torch.nan

    monkeypatch.setattr(SegmentationTask, "outputs", spoiled)
    with pytest.raises(InputError, match=r"the validation loss of epoch 0 is not a finite"):
        train(settings(), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    assert [path.name for path in (tmp_path / "training/checkpoints").iterdir()] == ["last.ckpt"]
    assert not (tmp_path / "model.ckpt").exists()


def test_validation_patches_whose_loss_is_not_finite_are_left_out(
    datasplit, tmp_path, monkeypatch, caplog
):
    """Neither early stopping nor the choice of checkpoints sees NaN."""
    step = SegmentationTask.validation_step
    outputs = SegmentationTask.outputs
    spoiled = []
    monkeypatch.setattr(
        SegmentationTask, "validation_step", lambda self, batch, i: (
            spoiled.append(i == 0), step(self, batch, i)
        )[1],
    )  # fmt: skip
    monkeypatch.setattr(
        SegmentationTask, "outputs", lambda self, raw: outputs(self, raw)
        * (torch.nan if not self.training and spoiled[-1] else 1),
    )  # fmt: skip
    train(settings(epochs=1), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    (row,) = rows(tmp_path / "training")
    assert math.isfinite(float(row["val_loss"]))
    assert 0 <= float(row["val_dice"]) <= 1
    assert "epoch 0: the loss of 1 of 2 validation patches is not finite" in caplog.text


def test_out_of_memory_names_the_settings_to_lower(datasplit, tmp_path, monkeypatch):
    def no_room(self, batch, index):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(SegmentationTask, "training_step", no_room)
    with pytest.raises(InputError, match=r"`batch_size` \(1\).*`patch_size`.*`model`.*9 GiB"):
        train(settings(), datasplit, tmp_path / "training", tmp_path / "model.ckpt")


def test_balanced_class_weights(tmp_path):
    summary = tmp_path / "summary.csv"
    summary.write_text(
        "by,name,train_um3\nclass,mito,4.0\nclass,nuc,16.0\nclass,ves,1.0\nclass,np,0.0\n"
        "class,cell,4.0\nclass,ld,0.0001\ndataset,jrc_a-1,50.0\n"
    )
    assert balanced_weights(summary) == pytest.approx(
        {"mito": 1, "nuc": 0.5, "ves": 2, "np": 1, "cell": 1, "ld": 10}
    )


def test_class_weights_are_passed_to_the_loss(datasplit, tmp_path, monkeypatch):
    seen = []
    fit = module.pl.Trainer.fit
    monkeypatch.setattr(
        module.pl.Trainer,
        "fit",
        lambda self, task, *a, **k: (
            seen.append(task.loss.class_weights),
            fit(self, task, *a, **k),
        ),
    )
    summary = tmp_path / "summary.csv"
    summary.write_text("by,name,train_um3\nclass,mito,1.0\nclass,er,4.0\n")
    for wanted in ("balanced", {"mito": 4}):
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        training = settings(class_weights=wanted, classes=["mito", "er"], epochs=1)
        train(training, datasplit, folder / "training", folder / "model.ckpt", summary=summary)
    # mito, its boundary, er; balanced: sqrt(2.5 / 1), twice, and sqrt(2.5 / 4).
    assert (seen[0] / seen[0][2]).tolist() == pytest.approx([2, 2, 1])
    assert (seen[1] / seen[1][2]).tolist() == pytest.approx([4, 4, 1])


def test_descriptors_are_learned_and_do_not_choose_the_best_epoch(datasplit, tmp_path, monkeypatch):
    weights = []
    monkeypatch.setattr(
        module,
        "SegmentationTask",
        lambda values, w: weights.append(w) or SegmentationTask(values, w),
    )
    training = settings(targets={"mito": ["boundary", "descriptors"]}, epochs=6)
    train(training, datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    assert weights == [[1, 1, *[0.1] * 10]]
    table = rows(tmp_path / "training")
    dice = {key for row in table for key in row if key.startswith("val_dice")}
    assert dice == {"val_dice", "val_dice/mito", "val_dice/mito_boundary"}
    for row in table:
        mean = np.mean([float(row["val_dice/mito"]), float(row["val_dice/mito_boundary"])])
        assert float(row["val_dice"]) == pytest.approx(mean, abs=1e-5)
    losses = [float(row["val_loss"]) for row in table]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    task = load_checkpoint(tmp_path / "model.ckpt")
    assert len(task.channels) == 12
