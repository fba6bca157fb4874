"""Batches, and what happens when the GPU's memory is too small for them."""

import numpy as np
import pytest
import torch

from cellmap_pipeline.config.training import Inference
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.prediction.predictor import LARGEST_BATCH, Predictor, best_batch
from cellmap_pipeline.prediction.window_sums import ONE
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
    assert np.abs(found[STARTS[3]] - wanted * ONE).max() < 2


class Small(torch.nn.Module):
    """A network for which a GPU has memory for only so many windows."""

    def __init__(self, network, most):
        super().__init__()
        self.network, self.most = network, most

    def forward(self, raw):
        if len(raw) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(raw)


@pytest.mark.parametrize(("most", "goes_on_with"), [(4, 3), (2, 2), (1, 1)])
def test_fewer_windows_where_memory_is_too_small(caplog, most, goes_on_with):
    task = tiny_task()
    wanted = values(predictor(task, 5))
    task.network = Small(task.network, most)
    made = predictor(task, 5)
    found = values(made)
    assert made.batch == goes_on_with
    assert f"goes on with batch {goes_on_with}" in caplog.text
    assert list(found) == STARTS
    assert all(np.abs(found[s].astype(int) - wanted[s]).max() < 2 for s in STARTS)


def test_a_window_that_is_too_large_is_an_error():
    task = tiny_task()
    task.network = Small(task.network, 0)
    with pytest.raises(InputError, match="set a smaller `inference.window`"):
        values(predictor(task, 5))


@pytest.mark.parametrize(
    ("fits", "overhead", "expected"),
    [(1, 1.0, 1), (10, 1.0, 8), (1000, 0.05, 1), (1000, 0.1, 2), (1000, 1000.0, LARGEST_BATCH)],
)
def test_the_best_batch_is_the_largest_that_gains_anything(fits, overhead, expected):
    def seconds(batch):
        if batch > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return overhead + batch

    assert best_batch(seconds) == expected


def test_auto_is_one_window_on_the_processor():
    assert predictor(tiny_task(), "auto").batch == 1
