"""Batches, also where the GPU's memory is too small for them."""

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
WEIGHTS = torch.ones(5, *WINDOW)


def predictor(task, batch):
    return Predictor([task], ["pm"], WINDOW, Inference(batch=batch))


def values(made):
    found = {}
    for starts, sums in made.run(STARTS, IMAGES, WEIGHTS):
        found |= dict(zip(starts, sums.numpy().view(np.uint16), strict=True))
    return found


def test_values_are_probabilities():
    task = tiny_task()
    found = values(predictor(task, 5))
    with torch.inference_mode():
        wanted = torch.sigmoid(task(torch.from_numpy(IMAGES[3])[None, None]))[0, [2]].numpy()
    assert np.abs(found[STARTS[3]] - wanted * PROBABILITY_ONE).max() < 2


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


def test_auto_is_one_window_on_the_cpu():
    assert predictor(tiny_task(), "auto").batch == 1
