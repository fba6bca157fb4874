"""Numbers of jobs, processes, GPUs and nodes."""

import pytest

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.resources import (
    JobRequest,
    check_job_arrays,
    check_nodes,
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
    for_lsf = "-gpu num=4:j_exclusive=yes -wa URG -wt 2"
    assert gpu_resources(one, "train") == {"gpu": 4, "lsf_extra": for_lsf}
    # Not four or eight GPUs anywhere, but four on each node.
    assert gpu_resources(two, "train") == {"gpu": 0, "gres": "gpu:4", "nodes": 2}
    assert requested_resources(two, "train") == requested_resources(one, "train")
    assert two.processes == 8


def test_gpus_are_requested_by_model():
    training = {
        "classes": ["mito"], "voxel_size": 8, "patch_size": 32, "devices": 2,
        "model": {"architecture": "monai_basic_unet3d"},
        "resources": {"train": {"gpu_model": "h100"}, "predict": {"gpu_model": "a100"}},
    }  # fmt: skip
    one, two = (Training.model_validate(training | {"nodes": nodes}) for nodes in (1, 2))
    assert gpu_resources(one, "train") == {
        "gpu": 2, "gpu_model": "h100",
        "lsf_extra": "-gpu num=2:j_exclusive=yes:gmodel=h100 -wa URG -wt 2",
    }  # fmt: skip
    assert gpu_resources(two, "train") == {"gpu": 0, "gres": "gpu:h100:2", "nodes": 2}
    # A prediction takes one GPU, and resumes without a warning.
    expected = {
        "gpu": 1,
        "gpu_model": "a100",
        "lsf_extra": "-gpu num=1:j_exclusive=yes:gmodel=a100",
    }
    assert gpu_resources(one, "predict") == gpu_resources(two, "predict") == expected
    assert "gpu_model" not in requested_resources(one, "train")


def test_several_nodes_take_slurm():
    jobs = [JobRequest("predict", {"gpu": 1}), JobRequest("train", {"gpu": 0, "nodes": 2})]
    check_nodes(jobs, "slurm")
    check_nodes(jobs[:1], "lsf")
    with pytest.raises(InputError, match="several nodes .* takes Slurm: on LSF, use"):
        check_nodes(jobs, "lsf")


def test_job_arrays_that_would_hang_or_change_requests_are_refused():
    def problems(arrays, max_submitted=100):
        try:
            check_job_arrays(jobs, arrays, max_submitted)
        except InputError as error:
            return str(error)
        return ""

    parts = [JobRequest("predict_part", {"mem_mb": 16000, "gpu": 1})] * 2
    crops = [JobRequest("predict", {"mem_mb": 16000 * n, "gpu": 1}) for n in (1, 2)]
    jobs = [*parts, *crops, JobRequest("train", {"gpu": 4})]
    assert problems("predict_part") == problems("predict_part;package") == ""
    assert problems("predict_part", 5) == problems("package", 1) == ""
    assert "this run has 5 jobs, of which Snakemake submits 4 at once" in problems(
        "predict_part", 4
    )
    different = "jobs of `predict` request different mem_mb, but"
    assert different in problems("predict_part, predict")
    assert different in problems("all") and "leave `train` out" in problems("all")


def test_large_crops_are_segmented_by_several_processes():
    assert segmentation_threads(ROW) == 1
    large = CropLabel(7, "a-1", "mito", Grid((4, 4, 4), (0, 0, 0), (1000, 1000, 96)))
    assert segmentation_threads(large) == 3


def test_memory_follows_the_number_of_processes_and_the_distances_of_the_crop():
    large = Grid((4, 4, 4), (0, 0, 0), (1000, 1000, 1000))
    cells, membranes = (CropLabel(7, "a-1", name, large) for name in ("cell", "pm"))
    assert segmentation_mb(ROW, 1) == 8000
    assert [segmentation_mb(cells, n) for n in (1, 3, 4, 16)] == [8000, 9100, 11_800, 44_200]
    thrice = CropLabel(7, "a-1", "cell", Grid((4, 4, 4), (0, 0, 0), (3000, 1000, 1000)))
    assert segmentation_mb(thrice, 4) == 16_000
    assert segmentation_mb(membranes, 4) == 11_800
