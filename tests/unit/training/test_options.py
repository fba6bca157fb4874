import csv

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.training import train as module
from cellmap_pipeline.training.checkpoints import load_checkpoint
from cellmap_pipeline.training.devices import precision
from cellmap_pipeline.training.interruption import LastCheckpoint
from cellmap_pipeline.training.optimizers import rate_at
from cellmap_pipeline.training.task import SegmentationTask
from cellmap_pipeline.training.train import balanced_weights, train
from tests.support.trainings import make_datasplit, settings


@pytest.fixture
def datasplit(tmp_path):
    return make_datasplit(tmp_path)


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_tensorboard_and_the_table_tell_the_same(datasplit, tmp_path):
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
    pictures = events.Images("raw, truth, prediction")
    assert len(pictures) == 2
    assert (pictures[0].height, pictures[0].width) == (32, 3 * 32 + 2 * 4)
    assert all(0 <= float(row["data_wait"]) <= 1 for row in rows)
    assert all(float(row["patches_per_second"]) > 0 for row in rows)


def test_the_same_seed_gives_the_same_curve(datasplit, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        train(settings(), datasplit, tmp_path / name / "training", tmp_path / name / "model.ckpt")
    one, other = ((tmp_path / n / "training/metrics.csv").read_text() for n in ("one", "other"))
    curves = [[row["train_loss"] for row in csv.DictReader(text.splitlines())] for text in
              (one, other)]  # fmt: skip
    assert curves[0] == curves[1] and len(set(curves[0])) == 2


def test_the_average_of_the_weights_is_what_predicts(datasplit, tmp_path, monkeypatch):
    """After two steps and d = 0.9 it is 0.9 of the first's weights and 0.1 of the second's."""
    steps = []
    hook = LastCheckpoint.on_train_batch_end

    def keep(self, trainer, task, *args):
        steps.append({k: v.clone() for k, v in task.state_dict().items()})
        return hook(self, trainer, task, *args)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", keep)
    training = settings(ema=0.9, epochs=1, iterations_per_epoch=2, accumulate_grad_batches=1)
    train(training, datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    average = weights(tmp_path / "model.ckpt")
    for key, value in average.items():
        expected = 0.9 * steps[0][key] + 0.1 * steps[1][key]
        torch.testing.assert_close(value, expected)
    assert load_checkpoint(tmp_path / "model.ckpt").channels == ["mito", "mito_boundary"]


def test_a_compiled_network_leaves_a_plain_checkpoint(datasplit, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    train(settings(compile=True), datasplit, tmp_path / "training", tmp_path / "model.ckpt")
    assert len(compiled) == 1
    assert "network.conv_0.conv_0.conv.weight" in weights(tmp_path / "model.ckpt")


def test_training_begins_with_the_weights_of_another(datasplit, tmp_path):
    train(settings(), datasplit, tmp_path / "training", tmp_path / "first.ckpt")
    begun = settings(initial_weights=str(tmp_path / "first.ckpt"), learning_rate=1e-9, epochs=1)
    train(begun, datasplit, tmp_path / "next", tmp_path / "second.ckpt")
    first, second = weights(tmp_path / "first.ckpt"), weights(tmp_path / "second.ckpt")
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-5)


def test_other_initial_weights_start_afresh(datasplit, tmp_path):
    for seed in (1, 2):
        train(settings(seed=seed, epochs=1), datasplit, tmp_path / "first", tmp_path / "first.ckpt")
        begun = settings(initial_weights=str(tmp_path / "first.ckpt"), epochs=1)
        train(begun, datasplit, tmp_path / "next", tmp_path / "second.ckpt")
    assert (tmp_path / "next.old-1/checkpoints/last.ckpt").is_file()
    with pytest.raises(InputError, match="initial_weights: none.pt cannot be read: No such file"):
        train(settings(initial_weights="none.pt"), datasplit, tmp_path / "n", tmp_path / "m.ckpt")


def test_a_loss_that_explodes_ends_the_training(datasplit, tmp_path, monkeypatch):
    step = SegmentationTask.training_step
    monkeypatch.setattr(
        SegmentationTask, "training_step", lambda self, batch, i: step(self, batch, i) * torch.nan
    )
    with pytest.raises(InputError, match=r"loss of epoch 0 is not a finite .* `learning_rate`"):
        train(settings(), datasplit, tmp_path / "training", tmp_path / "model.ckpt")


def test_a_gpu_that_is_too_small_says_what_to_lower(datasplit, tmp_path, monkeypatch):
    def no_room(self, batch, index):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(SegmentationTask, "training_step", no_room)
    with pytest.raises(InputError, match=r"`batch_size` \(1\).*`patch_size`.*`model`.*9 GiB"):
        train(settings(), datasplit, tmp_path / "training", tmp_path / "model.ckpt")


def test_more_gpus_than_there_are(datasplit, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="devices: 2 GPUs are asked for, but there are 1 here"):
        module._trainer(settings(devices=2), tmp_path, [], None)


@pytest.mark.parametrize(
    ("wanted", "able", "expected"),
    [
        ("mixed", True, "bf16-mixed"), ("mixed", False, "16-mixed"), ("32", True, "32"),
        ("16-mixed", True, "16-mixed"), ("bf16-mixed", True, "bf16-mixed"),
    ],
)  # fmt: skip
def test_precision_on_a_gpu(monkeypatch, wanted, able, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    assert precision(wanted) == expected


def test_polynomial_schedule():
    made = settings(learning_rate=1.0, scheduler={"name": "polynomial", "power": 2, "minimum": 0.1})
    rates = [rate_at(step, 100, made) for step in (0, 50, 100)]
    assert rates == pytest.approx([1, 0.1 + 0.9 / 4, 0.1])


def test_balanced_class_weights(tmp_path):
    summary = tmp_path / "summary.csv"
    summary.write_text(
        "class,train_um3\nmito,4.0\nnuc,16.0\nves,1.0\nnp,0.0\ncell,4.0\nld,0.0001\n"
    )
    assert balanced_weights(summary) == pytest.approx(
        {"mito": 1, "nuc": 0.5, "ves": 2, "np": 1, "cell": 1, "ld": 10}
    )


def test_class_weights_reach_the_loss(datasplit, tmp_path, monkeypatch):
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
    summary.write_text("class,train_um3\nmito,1.0\ner,4.0\n")
    for wanted in ("balanced", {"mito": 4}):
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        training = settings(class_weights=wanted, classes=["mito", "er"], epochs=1)
        train(training, datasplit, folder / "training", folder / "model.ckpt", summary=summary)
    # mito, its boundary, er; balanced: sqrt(2.5 / 1), twice, and sqrt(2.5 / 4).
    assert (seen[0] / seen[0][2]).tolist() == pytest.approx([2, 2, 1])
    assert (seen[1] / seen[1][2]).tolist() == pytest.approx([4, 4, 1])
