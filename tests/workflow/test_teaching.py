"""A training that learns from another one's confident predictions around its crops."""

import json

import numpy as np
import pytest

from cellmap_pipeline.data.datasplit_csv import read_datasplit
from cellmap_pipeline.data.manifest import read_manifest
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume

pytestmark = pytest.mark.slow
NETWORK = "results/student/model.ckpt"


@pytest.fixture(scope="module")
def run(finished_run):
    """A finished run, with a training that it teaches."""
    made = finished_run()
    teach = {"from": "tiny", "at_least": 0.55, "margin_nm": 64, "share": 0.5}
    made.train("student", classes=["mito", "nuc"], iterations_per_epoch=4, teach=teach)
    made.configure(trainings=["tiny", "student"])
    assert "train" not in made.planned("results/tiny/model.ckpt")
    made.snakemake(NETWORK)
    return made


def test_pseudo_labels_lie_around_training_crops_alone(run):
    folder = run.folder / "results/student"
    sides = read_datasplit(folder / "datasplit.csv", None)
    crops = {
        row.labels.name: Volume.open(run.folder / row.labels / row.classes[0]) for row in sides
    }
    trained = {row.labels.name for row in sides if row.usage == "train"}
    summary = json.loads((folder / "pseudo_labels/summary.json").read_text())
    assert {name.split("/")[1] for name in summary} == trained
    test_crops = {
        (row.dataset, row.grid) for row in read_manifest(run.folder / "data/test_crop_manifest.csv")
    }
    written = sorted((folder / "pseudo_labels").glob("*/crop*/*"))
    assert {path.name for path in written} <= {"mito", "nuc"} and written
    for path in written:
        label = LabelVolume.open(path)
        (level,) = label.volume.levels
        (predicted,) = Volume.open(
            folder / "teacher_predictions" / path.relative_to(folder / "pseudo_labels")
        ).levels
        assert predicted.grid == level.grid
        ids, known = label.read(level.grid)
        probabilities = predicted.read((0, 0, 0), level.grid.shape) / 255
        sure = np.abs(probabilities - 0.5) >= 0.05 - 1e-9
        assert known.any() and not (known & ~sure).any()
        assert np.array_equal(ids[known] > 0, probabilities[known] > 0.5)
        dataset = path.parents[1].name
        hidden = [
            volume.levels[0].grid
            for row in sides
            if f"{dataset}.zarr" in str(row.labels)
            for volume in [crops[row.labels.name]]
        ]
        for grid in [*hidden, *(grid for name, grid in test_crops if name == dataset)]:
            if level.grid.overlaps(grid):
                start, stop = level.grid.index_box(grid)
                box = tuple(slice(max(0, a), max(0, b)) for a, b in zip(start, stop, strict=True))
                assert not known[box].any()


def test_a_change_reruns_what_depends_on_it(run):
    assert run.planned(NETWORK) == {}
    teach = {"from": "tiny", "at_least": 0.6, "margin_nm": 64, "share": 0.5}
    settings = {"classes": ["mito", "nuc"], "iterations_per_epoch": 4}
    run.train("student", **settings, teach=teach)
    assert run.planned(NETWORK) == {"pseudo_labels": 1, "train": 1}
    run.train("student", **settings, teach=teach | {"at_least": 0.55, "share": 0.4})
    assert run.planned(NETWORK) == {"train": 1}
    # The teacher's own results depend on none of it.
    assert run.planned("results/tiny/model.ckpt", "results/tiny/validation/scores.json") == {}
    run.train("tiny", learning_rate=2e-2)
    planned = run.planned(NETWORK)
    assert planned == {"train": 2, "predict_teacher": 1, "pseudo_labels": 1}
    run.train("tiny")
