"""Volumes of a crop that exist so far, in the order in which the viewer lists them."""

import numpy as np
import pytest

from cellmap_pipeline.config.load import parse_run
from cellmap_pipeline.config.run import Split
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.io.volumes import create
from cellmap_pipeline.report.crop_layers import find_layers

GRID = Grid((8, 8, 8), (0, 0, 0), (4, 4, 4))


@pytest.fixture
def run(tmp_path):
    """A function that writes volumes below the folder of a run and returns its configuration."""
    rows = [CropLabel(7, "d", label, GRID) for label in ("mito", "nuc", "pm")]
    write_manifest(rows, tmp_path / "m.csv")
    config = {
        "data_root": str(tmp_path / "data"),
        "test_crops": str(tmp_path / "m.csv"),
        "ground_truth": str(tmp_path / "truth.zarr"),
        "output": str(tmp_path / "results"),
        "trainings": ["net", "other"],
        "split": {"folds": 2},
        "predictions": {"lab": str(tmp_path / "lab/{crop}/{label}/{dataset}")},
    }

    def write_volumes(*paths):
        for path in paths:
            create(tmp_path / path, GRID, "uint8").write(np.ones(GRID.shape, np.uint8)).result()
        return parse_run(config, "config.yaml")

    return write_volumes


VOLUMES = (
    "truth.zarr/crop7/mito",
    "results/segmentations/d/crop7/mito",
    "results/segmentations/d/crop7/pm.partial",
    "results/net/predictions/d/crop7/mito",
    "results/net/predictions/d/crop7/mito_boundary",
    "results/net/predictions/d/crop7/nuc",
    "lab/7/pm/d",
)


def test_layers_of_a_test_crop_are_grouped_by_class(run):
    crop = find_layers(run(*VOLUMES), 7)
    assert [layer.name for layer in crop.layers] == [
        "nuc (net)",
        "mito ground truth",
        "mito labels",
        "mito (net)",
        "mito_boundary (net)",
        "pm (lab)",
    ]
    assert [layer.label for layer in crop.of_kind("probability")] == ["nuc", "mito", "mito", "pm"]
    assert (crop.crop, crop.dataset) == (7, "d")


def test_only_layers_of_selected_classes_are_found(run):
    config = run(*VOLUMES)
    assert {layer.label for layer in find_layers(config, 7, ["pm"]).layers} == {"pm"}
    with pytest.raises(InputError, match="crop 7 has no volumes of er, only of nuc, mito, pm"):
        find_layers(config, 7, ["er", "pm"])


def test_layers_of_a_labeled_crop_are_ground_truth_and_validation_predictions(run):
    labels = "data/d/d.zarr/recon-1/labels/groundtruth/crop3"
    config = run(f"{labels}/pm", "results/other/validation/predictions/d/crop3/pm")
    names = [layer.name for layer in find_layers(config, 3).layers]
    assert names == ["pm ground truth", "pm (other)"]
    config = run("results/net/fold1/validation/predictions/d/crop3/pm")
    names = [layer.name for layer in find_layers(config, 3).layers]
    assert names == ["pm ground truth", "pm (net)", "pm (other)"]


def test_layers_of_a_labeled_crop_come_from_the_fold_that_predicted_it(run):
    labels = "data/d/d.zarr/recon-1/labels/groundtruth/crop3"
    predicted = "results/other/fold1/validation/predictions/d/crop3/pm"
    config = run(f"{labels}/pm", predicted).model_copy(update={"split": Split(folds=2)})
    names = [layer.name for layer in find_layers(config, 3).layers]
    assert names == ["pm ground truth", "pm (other)"]


def test_missing_crops_and_results_are_errors(run, tmp_path):
    config = run("data/d/d.zarr/recon-1/labels/groundtruth/crop3/pm")
    with pytest.raises(InputError, match=r"there is no crop 9: .* are 7; the labeled .* are 3$"):
        find_layers(config, 9)
    with pytest.raises(InputError, match="crop 7 has no results in .* yet: .*run crop7` predicts"):
        find_layers(config, 7)
    (tmp_path / "results/net/predictions/d/crop7.partial").mkdir(parents=True)
    with pytest.raises(InputError, match="crop 7 has no complete results yet; .*crop7.partial is"):
        find_layers(config, 7)
