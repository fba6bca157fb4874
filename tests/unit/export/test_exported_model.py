"""The exported module returns what `predict` computes, bit for bit on a CPU."""

import numpy as np
import pytest
import torch

from cellmap_pipeline.config.sections import Inference
from cellmap_pipeline.export.exported_model import ExportedModel
from cellmap_pipeline.patches.normalization import BY_RANGE, Normalization
from cellmap_pipeline.prediction.predictor import Predictor
from tests.support.exported import SMALLEST
from tests.support.networks import tiny_task

WINDOW = (16, 16, 16)
PERCENTILES = Normalization(low=0.1, high=0.7, center=0.4, width=0.5)
STORED = np.random.default_rng(0).integers(0, 256, (2, 1, *WINDOW)).astype(np.uint8)
AFFINITIES = {"mito": [{"affinities": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 4]]}, "distance"]}


def predicted(task, channels, normalization):
    """What `predict` computes, from raw as volumes return it."""
    raw = STORED.astype(np.float32) / np.float32(255)
    predictor = Predictor([task], channels, WINDOW, Inference(), torch.device("cpu"))
    with torch.inference_mode():
        return predictor.probabilities(torch.from_numpy(normalization.standardize(raw)))[0]


@pytest.mark.parametrize("normalization", [BY_RANGE, PERCENTILES])
@pytest.mark.parametrize(
    "changes",
    [{}, {"hierarchy": False}, {"targets": AFFINITIES},
     {"targets": {"mito": [{"descriptors": {"sigma_nm": 24}}]}}],
    ids=["hierarchy", "independent", "affinities", "descriptors"],
)  # fmt: skip
def test_it_returns_what_predict_computes(changes, normalization):
    task = tiny_task(**SMALLEST | changes)
    channels = task.training_settings.inference.stored_channels(task.channels)
    model = ExportedModel(task, channels, normalization, 255.0)
    with torch.no_grad():
        found = model(torch.from_numpy(STORED.astype(np.float32)))
    wanted = predicted(task, channels, normalization)
    assert found.shape == (2, len(channels), *WINDOW)
    assert found.dtype == torch.float32
    assert 0.1 < wanted.mean() < 0.9
    assert torch.equal(found, wanted)


def test_bytes_are_taken_as_they_are_stored():
    task = tiny_task(**SMALLEST)
    model = ExportedModel(task, task.channels, PERCENTILES, 255.0)
    with torch.no_grad():
        assert torch.equal(
            model(torch.from_numpy(STORED)), model(torch.from_numpy(STORED.astype(np.float32)))
        )
