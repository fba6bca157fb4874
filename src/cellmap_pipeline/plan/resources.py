"""The resources that jobs of a training request from a cluster."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cellmap_pipeline.classes import is_instance
from cellmap_pipeline.config.sections import GpuStage, JobStage
from cellmap_pipeline.config.training import Training
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.errors import InputError, raise_all
from cellmap_pipeline.geometry import union

# Memory in MB, time in minutes.
DEFAULT_RESOURCES = {
    "train": {"mem_mb": 16000, "runtime": 2880, "cpus_per_task": 0},
    "validate": {"mem_mb": 32000, "runtime": 480, "cpus_per_task": 8},
    "predict": {"mem_mb": 16000, "runtime": 720, "cpus_per_task": 8},
}
RESOURCES_PER_TRAINING_GPU = {"mem_mb": 8000, "cpus_per_task": 8}
# More than the loader's own limit, as batches and the allocator take memory, too.
JOB_MB_PER_LOADER_GB = 2000
VOXELS_PER_SEGMENT_PROCESS = 32_000_000
MAX_SEGMENT_PROCESSES = 4
# Each process works on one window at a time (`Method.block_voxels`), with up to 16 offsets. The
# first one holds tables, too, and before that a mask and the distances of the whole crop.
MB_PER_SEGMENT_PROCESS, SEGMENT_TABLES_MB, DISTANCE_BYTES_PER_VOXEL = 2700, 1000, 5
MIN_SEGMENT_MB = 8000
# Options of LSF's `bsub`, for which Snakemake's plugin has no resources.
LSF_GPUS, LSF_GPU_MODEL = "-gpu num={}:j_exclusive=yes", ":gmodel={}"
# Two minutes before the time limit. Other signals would end the job's shell.
LSF_WARNING = "-wa URG -wt 2"


def requested_resources(training: Training, stage: JobStage, networks: int = 1) -> dict[str, int]:
    """The resources that a training's jobs of a stage request, in Snakemake's names and units.

    Memory and processors are those of each node.
    By default, a job that predicts with several networks gets the time of all of them.
    """
    requested = dict(DEFAULT_RESOURCES[stage])
    requested["runtime"] *= networks
    if stage == "train":
        for key, value in RESOURCES_PER_TRAINING_GPU.items():
            requested[key] += value * training.devices
        loader_mb = round(JOB_MB_PER_LOADER_GB * training.memory_gb)
        requested["mem_mb"] += loader_mb * training.devices
    if configured := training.resources.get(stage):
        requested |= configured.model_dump(exclude_none=True, exclude={"gpu_model"})
    return requested


def gpu_resources(training: Training, stage: GpuStage) -> dict[str, int | str]:
    """The GPUs and nodes that a training's jobs of a stage request, by their names in Snakemake.

    `gpu` counts the GPUs of a job, which Slurm may divide unevenly, `gres` those of each node.
    `lsf_extra` has the same for LSF, which runs no job on several nodes.
    """
    configured = training.resources.get(stage)
    model = configured.gpu_model if configured else None
    devices = training.devices if stage == "train" else 1
    if stage == "train" and training.nodes > 1:
        gres = f"gpu:{model}:{devices}" if model else f"gpu:{devices}"
        return {"gpu": 0, "gres": gres, "nodes": training.nodes}
    options = LSF_GPUS.format(devices) + (LSF_GPU_MODEL.format(model) if model else "")
    if stage == "train":
        options += f" {LSF_WARNING}"
    request: dict[str, int | str] = {"gpu": devices, "lsf_extra": options}
    return request | {"gpu_model": model} if model else request


class JobRequest(NamedTuple):
    """Resources that a job requests from a cluster.

    Attributes
    ----------
    rule
        Name of its rule.
    resources
        Amounts by name.
    """

    rule: str
    resources: Mapping[str, Any]


def check_nodes(jobs: Iterable[JobRequest], executor: str) -> None:
    """Check that no job requests several nodes from LSF, which starts it on one of them.

    Raises
    ------
    InputError
        One does.
    """
    if executor == "lsf" and any((job.resources.get("nodes") or 1) > 1 for job in jobs):
        raise InputError(
            "a training on several nodes (`nodes`) takes Slurm: on LSF, use the GPUs of one node "
            "(`nodes: 1`, `devices`)"
        )


def check_job_arrays(jobs: Sequence[JobRequest], arrays: str, max_submitted: int) -> None:
    """Check that Slurm's plugin can submit the jobs of some rules as job arrays.

    The plugin requests for all jobs of an array what one of them does. It never submits jobs of a
    rule that become ready together, unless Snakemake's limits let all of them start at once.

    Parameters
    ----------
    jobs
        All jobs of a run.
    arrays
        Names of the rules, separated by commas, or `all`: `slurm-array-jobs` of the profile.
    max_submitted
        Number of jobs that Snakemake submits at once.

    Raises
    ------
    InputError
        The run would hang, or a job would not get what it requests.
    """
    names = {name.strip() for name in arrays.replace(";", ",").split(",")}
    chosen = [job for job in jobs if "all" in names or job.rule in names]
    problems = []
    if chosen and len(jobs) > max_submitted:
        problems.append(
            f"slurm-array-jobs: this run has {len(jobs)} jobs, of which Snakemake submits "
            f"{max_submitted} at once; the others would wait forever: set `jobs: {len(jobs)}` and "
            f"`max-jobs-per-timespan: {len(jobs)}/1s` in the profile, or higher"
        )
    for rule in sorted({job.rule for job in chosen}):
        requests = [job.resources for job in chosen if job.rule == rule]
        if rule == "train":
            problems.append(
                "slurm-array-jobs: trainings in an array are not warned before their time limit: "
                "leave `train` out"
            )
        elif differing := [key for key, value in requests[0].items()
                           if any(other.get(key) != value for other in requests)]:  # fmt: skip
            problems.append(
                f"slurm-array-jobs: jobs of `{rule}` request different {', '.join(differing)}, but "
                "those of an array get the same: set it for all of them (`set-resources`), or "
                f"leave `{rule}` out"
            )
    raise_all(problems)


def prediction_jobs(training: Training, rows: Sequence[CropLabel]) -> int:
    """The number of jobs that predict the `rows` of one crop."""
    voxels = union([row.grid for row in rows]).at(training.voxel_size).size
    limit = training.inference.job_voxels or voxels
    return max(training.inference.jobs, math.ceil(voxels / limit))


def segmentation_threads(row: CropLabel) -> int:
    """The number of processes that make a label; large crops are cut into blocks for them."""
    return max(1, min(MAX_SEGMENT_PROCESSES, row.grid.size // VOXELS_PER_SEGMENT_PROCESS))


def segmentation_mb(row: CropLabel, threads: int) -> int:
    """The memory that a job requests which makes a label in up to `threads` processes, MB."""
    distances = (
        DISTANCE_BYTES_PER_VOXEL * row.grid.size // 1_000_000 if is_instance(row.label) else 0
    )
    windows = MB_PER_SEGMENT_PROCESS * threads
    return max(MIN_SEGMENT_MB, SEGMENT_TABLES_MB + max(distances, windows))
