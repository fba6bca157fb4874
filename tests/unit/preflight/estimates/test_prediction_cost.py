"""Estimates of the voxels and windows that a prediction takes."""

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.preflight.estimates.prediction_cost import (
    describe_cost,
    prediction_cost,
    voxel_size_warning,
)


def one_crop(side, voxel=8, labels=("mito", "er")):
    grid = Grid((voxel,) * 3, (0, 0, 0), (side,) * 3)
    return [CropLabel(7, "d", label, grid) for label in labels]


def test_cost_of_predicting_a_crop():
    inference = {"overlap": 0.5, "jobs": 2, "symmetries": 8}
    training = Training.model_validate(
        {
            "classes": ["mito", "er"], "voxel_size": 8, "patch_size": 32, "inference": inference,
            "model": {"architecture": "monai_basic_unet3d"},
        }
    )  # fmt: skip
    found = prediction_cost(training, one_crop(64))
    # 8 voxels of context on both sides: 80, windows at 0, 16, 32, 48.
    assert (found.voxels, found.windows, found.passes) == (64**3, 4**3, 8 * 4**3)
    # mito, its boundary, er.
    assert (found.labels, found.stored_bytes, found.jobs) == (2, 3 * 64**3, 2)
    assert found.layer_bytes == 2 * 3 * 32 * 80 * 80
    assert voxel_size_warning(found, "t", training.voxel_size) is None
    assert "0.3 M voxels, 64 windows in 2 jobs" in describe_cost(found)


def test_descriptors_cost_disk_only_where_they_are_stored():
    def stored_channels(store):
        training = Training.model_validate(
            {
                "classes": ["mito", "er"], "voxel_size": 8, "patch_size": 32,
                "inference": {"store": store}, "targets": {"mito": ["descriptors"]},
                "model": {"architecture": "monai_basic_unet3d"},
            }
        )  # fmt: skip
        return prediction_cost(training, one_crop(64)).stored_bytes / 64**3

    assert stored_channels([]) == 2
    assert stored_channels(["descriptors"]) == 12


def test_predicting_at_much_finer_voxels_is_a_warning():
    training = Training.model_validate(
        {
            "classes": ["mito", "er"], "voxel_size": 4, "patch_size": 32,
            "model": {"architecture": "monai_basic_unet3d"},
        }
    )  # fmt: skip
    found = prediction_cost(training, one_crop(50, voxel=32))
    assert found.voxel_ratio == 512
    message = voxel_size_warning(found, "t", training.voxel_size)
    assert "512 times the voxels" in message
    assert "`serves` in t.yaml" in message
