import numpy as np
import pytest
import torch
from networks import tiny_task

from cellmap_pipeline.config import Inference
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.validation import read_probabilities, validate
from cellmap_pipeline.volumes import create

GRID = Grid((8, 8, 8), (0, 0, 0), (40, 40, 40))


class Bright(torch.nn.Module):
    """Stands for a trained network: what is bright is inside, and nothing is a boundary."""

    def forward(self, normalised):
        inside = normalised * 4
        return torch.cat([inside, inside - 100, inside], dim=1)


@pytest.fixture
def task():
    made = tiny_task()
    made.network = Bright()
    return made


def test_crops_are_predicted_tuned_and_scored(task, tmp_path):
    ids = np.zeros(GRID.shape, np.uint8)
    ids[5:15, 5:30, 5:30] = 1
    ids[22:35, 5:30, 5:30] = 2
    raw = np.where(ids > 0, 200, 60).astype(np.uint8)
    raw[ids == 0] += np.random.default_rng(0).integers(0, 60, np.sum(ids == 0)).astype(np.uint8)
    create(tmp_path / "raw", GRID, "uint8").write(raw).result()
    labels = tmp_path / "a.zarr/crop1"
    labels.mkdir(parents=True)
    create(labels / "mito", GRID, "uint8").write(ids).result()
    create(labels / "pm", GRID, "uint8").write((ids > 0).astype(np.uint8)).result()
    rows = "".join(f"{use},{tmp_path}/raw,{labels}\n" for use in ("train", "validate"))
    (tmp_path / "datasplit.csv").write_text(rows)
    scores, settings = validate(
        [task], tmp_path / "datasplit.csv", Inference(), tmp_path / "predictions"
    )
    assert scores["classes"]["mito"]["score"] == pytest.approx(1)
    assert scores["classes"]["pm"]["score"] == pytest.approx(1)
    assert scores["overall_score"] == pytest.approx(1)
    assert set(settings) == {"mito", "pm"}
    channels = read_probabilities(tmp_path / "predictions/a/crop1", "mito")
    assert set(channels) == {"mito", "mito_boundary"}
    assert np.array_equal(channels["mito"] > 127, ids > 0)
