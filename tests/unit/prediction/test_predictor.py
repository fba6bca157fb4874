"""Predicted probabilities, and batches within the memory of the GPU."""

import numpy as np
import pytest
import torch

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.prediction.predictor import MAX_BATCH, Predictor, fastest_batch
from cellmap_pipeline.prediction.window_sums import PROBABILITY_ONE
from tests.support.networks import tiny_task

WINDOW = (32, 32, 32)
RNG = np.random.default_rng(0)
IMAGES = [RNG.random(WINDOW).astype(np.float32) for _ in range(5)]
STARTS = [(0, 0, i) for i in range(5)]
WEIGHTS = [torch.ones(WINDOW)] * 5


def predictor(task, batch):
    return Predictor([task], ["pm"], WINDOW, Inference(batch=batch))


def values(made):
    found = {}
    for starts, sums, finite in made.run(STARTS, IMAGES, WEIGHTS):
        assert finite.all()
        found |= dict(zip(starts, sums.numpy().view(np.uint16), strict=True))
    return found


def test_values_are_probabilities():
    task = tiny_task()
    found = values(predictor(task, 5))
    with torch.inference_mode():
        wanted = torch.sigmoid(task(torch.from_numpy(IMAGES[3])[None, None]))[0, [2]].numpy()
    assert np.abs(found[STARTS[3]] - wanted * PROBABILITY_ONE).max() < 2


class SpoilingNetwork(torch.nn.Module):
    """A network of three channels that returns zeros, but one other value in the third window."""

    def __init__(self, channel, value):
        super().__init__()
        self.channel, self.value = channel, value

    def forward(self, raw):
        logits = torch.zeros(len(raw), 3, *raw.shape[2:])
        logits[2, self.channel, 3, 4, 5] = self.value
        return logits


@pytest.mark.parametrize(
    ("channel", "value", "finite"),
    [(2, np.nan, False), (2, np.inf, False), (2, -np.inf, False), (2, 1e30, True),
     (0, np.nan, True)],
)  # fmt: skip
def test_windows_with_nan_or_infinity_are_found(channel, value, finite):
    tasks = tiny_task(), tiny_task()
    for task, own in zip(tasks, (0, value), strict=True):
        task.network = SpoilingNetwork(channel, own)
    # Any of the averaged networks and symmetries counts.
    made = Predictor(tasks, ["pm"], WINDOW, Inference(batch=5, symmetries=8))
    ((_, _, found),) = made.run(STARTS, IMAGES, WEIGHTS)
    assert found.tolist() == [True, True, finite, True, True]


class SmallMemoryNetwork(torch.nn.Module):
    """A network that runs out of memory for more than `max_windows` windows."""

    def __init__(self, network, max_windows):
        super().__init__()
        self.network, self.max_windows = network, max_windows

    def forward(self, raw):
        if len(raw) > self.max_windows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(raw)


@pytest.mark.parametrize(("max_windows", "batch"), [(4, 3), (2, 2), (1, 1)])
def test_the_batch_is_halved_where_memory_is_too_small(caplog, max_windows, batch):
    task = tiny_task()
    wanted = values(predictor(task, 5))
    task.network = SmallMemoryNetwork(task.network, max_windows)
    made = predictor(task, 5)
    found = values(made)
    assert made.batch == batch
    assert f"continuing with batch {batch}" in caplog.text
    assert list(found) == STARTS
    assert all(np.abs(found[s].astype(int) - wanted[s]).max() < 2 for s in STARTS)


def test_a_window_that_is_too_large_is_an_error():
    task = tiny_task()
    task.network = SmallMemoryNetwork(task.network, 0)
    with pytest.raises(InputError, match="set a smaller `inference.window`"):
        values(predictor(task, 5))


@pytest.mark.parametrize(
    ("fits", "overhead", "expected"),
    [(1, 1.0, 1), (10, 1.0, 8), (1000, 0.05, 1), (1000, 0.1, 2), (1000, 1000.0, MAX_BATCH)],
)
def test_the_batch_is_doubled_while_that_is_faster(fits, overhead, expected):
    def seconds(batch):
        if batch > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return overhead + batch

    assert fastest_batch(seconds) == expected


def test_other_memory_is_freed_for_a_single_window(caplog):
    """The batch is halved first; then the sums of rows leave the GPU."""
    task = tiny_task()
    wanted = values(predictor(task, 5))
    task.network = SmallMemoryNetwork(task.network, 0)
    freed = []

    def free_memory():
        freed.append(task.network.max_windows)
        task.network.max_windows = 1
        return freed == [0]

    made = predictor(task, 2)
    found = {}
    for starts, sums, _ in made.run(STARTS, IMAGES, WEIGHTS, free_memory):
        found |= dict(zip(starts, sums.numpy().view(np.uint16), strict=True))
    assert (freed, made.batch) == ([0], 1)
    assert all(np.abs(found[s].astype(int) - wanted[s]).max() < 2 for s in STARTS)
    task.network.max_windows = -1
    with pytest.raises(InputError, match="set a smaller `inference.window`"):
        list(made.run(STARTS[:1], IMAGES[:1], WEIGHTS[:1], free_memory))


def test_auto_is_one_window_on_the_cpu():
    assert predictor(tiny_task(), "auto").batch == 1
