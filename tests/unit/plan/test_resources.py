"""Numbers of jobs, processes, GPUs and nodes."""

import pytest

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.resources import (
    gpu_resources,
    prediction_jobs,
    requested_resources,
    segmentation_mb,
    segmentation_threads,
)

# 400 x 100 x 100 voxels of 4 nm: 200 x 50 x 50 of 8 nm.
ROW = CropLabel(7, "a-1", "mito", Grid((4, 4, 4), (0, 0, 0), (400, 100, 100)))


@pytest.mark.parametrize(
    ("inference", "jobs"),
    [
        ({}, 1),
        ({"jobs": 3}, 3),
        ({"job_voxels": 500_000}, 1),
        ({"job_voxels": 499_999}, 2),
        ({"job_voxels": 100_000}, 5),
        ({"job_voxels": 100_000, "jobs": 8}, 8),
    ],
    ids=str,
)
def test_number_of_jobs_follows_from_jobs_or_job_voxels(inference, jobs):
    training = Training.model_validate(
        {
            "classes": ["mito"], "voxel_size": 8, "patch_size": 32, "inference": inference,
            "model": {"architecture": "monai_basic_unet3d"},
        }
    )  # fmt: skip
    assert prediction_jobs(training, [ROW]) == jobs


def test_each_node_of_a_training_has_its_gpus_memory_and_processors():
    one, two = (
        Training.model_validate(
            {
                "classes": ["mito"], "voxel_size": 8, "patch_size": 32, "devices": 4,
                "model": {"architecture": "monai_basic_unet3d"}, "nodes": nodes,
            }
        )
        for nodes in (1, 2)
    )  # fmt: skip
    assert gpu_resources(one) == {"gpu": 4}
    # Not four or eight GPUs anywhere, but four on each node.
    assert gpu_resources(two) == {"gpu": 0, "gres": "gpu:4", "nodes": 2}
    assert requested_resources(two, "train") == requested_resources(one, "train")
    assert two.processes == 8


def test_large_crops_are_segmented_by_several_processes():
    assert segmentation_threads(ROW) == 1
    large = CropLabel(7, "a-1", "mito", Grid((4, 4, 4), (0, 0, 0), (1000, 1000, 96)))
    assert segmentation_threads(large) == 3


def test_memory_follows_the_number_of_processes_and_the_distances_of_the_crop():
    large = Grid((4, 4, 4), (0, 0, 0), (1000, 1000, 1000))
    cells, membranes = (CropLabel(7, "a-1", name, large) for name in ("cell", "pm"))
    assert segmentation_mb(ROW, 1) == 8000
    assert [segmentation_mb(cells, n) for n in (1, 3, 4, 16)] == [8000, 8000, 9000, 33_000]
    twice = CropLabel(7, "a-1", "cell", Grid((4, 4, 4), (0, 0, 0), (2000, 1000, 1000)))
    assert segmentation_mb(twice, 4) == 11_000
    assert segmentation_mb(membranes, 4) == 9000
