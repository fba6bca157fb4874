"""The profiles can be planned with what they leave to choose; the example of partitions is one."""

import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file

from cellmap_pipeline.config.training import Training
from cellmap_pipeline.plan.resources import gpu_resources, requested_resources

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = ROOT / "profiles/slurm/partitions.yaml"


def partition_of(threads=1, **resources):
    """Return the partition of a job, as Slurm's plugin chooses it."""
    job = SimpleNamespace(name="job", threads=threads, resources=resources)
    partitions = read_partition_file(PARTITIONS)
    return get_best_partition(partitions, job, logging.getLogger("partitions"))


def test_each_job_gets_the_partition_that_fits_it():
    assert partition_of(mem_mb=8000, runtime=60) == "short"
    assert partition_of(mem_mb=8000, runtime=600) == "long"
    assert partition_of(mem_mb=400_000, runtime=60) == "long"
    assert partition_of(mem_mb=2_000_000, runtime=60) is None


@pytest.mark.parametrize(
    ("changes", "partition"),
    [
        ({}, "gpu"),
        ({"devices": 8}, "gpu_h100"),
        ({"resources": {"train": {"gpu_model": "h100"}}}, "gpu_h100"),
        ({"resources": {"train": {"gpu_model": "l40s"}}}, "gpu"),
        ({"resources": {"train": {"gpu_model": "v100"}}}, None),
        ({"resources": {"train": {"runtime": 7200}}}, "gpu_h100"),
        ({"devices": 2, "nodes": 2, "resources": {"train": {"gpu_model": "h100"}}}, "gpu_h100"),
    ],
    ids=str,
)
def test_trainings_get_a_partition_with_their_gpus(changes, partition):
    training = Training.model_validate(
        {
            "classes": ["mito"], "voxel_size": 8, "patch_size": 32,
            "model": {"architecture": "monai_basic_unet3d"},
        }
        | changes
    )  # fmt: skip
    requested = requested_resources(training, "train")
    threads = requested.pop("cpus_per_task")
    assert partition_of(threads, **requested, **gpu_resources(training, "train")) == partition


def rules_with_gpus():
    """Return the names of the rules that request GPUs, each with its resources."""
    found = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for name, text in re.findall(
            r"^rule (\w+):\n(.*?)(?=^\S|\Z)", path.read_text(), re.M | re.S
        ):
            resources = re.findall(r"^ {8}(gpu\w*|lsf_extra)=", text, re.M)
            if resources:
                found[name] = resources
    return found


def test_rules_with_gpus_request_them_by_model_and_from_lsf_and_are_in_the_profiles():
    rules = rules_with_gpus()
    assert rules.keys() > {"train", "predict", "predict_part", "predict_validation"}
    for name, resources in rules.items():
        assert resources == ["gpu", "gpu_model", "lsf_extra"], name
    for profile, key in (("slurm", "slurm_partition"), ("lsf", "lsf_queue")):
        text = (ROOT / f"profiles/{profile}/profile.yaml").read_text()
        named = re.findall(rf"^[ #]+(\w+): ?(?:\n +# |{{){key}: gpu", text, re.M)
        assert sorted(named) == sorted(rules), profile


def test_slurm_can_be_planned_with_partitions_and_job_arrays(new_run):
    run = new_run()
    folder = run.folder / "slurm"
    shutil.copytree(PARTITIONS.parent, folder)
    profile = folder / "profile.yaml"
    text, changed = re.subn(
        r"^# (slurm-(partition|array)-)", r"\1", profile.read_text(), flags=re.M
    )
    assert changed == 2
    profile.write_text(text)
    run.profile, run.options = str(folder), ()
    run.train("tiny", inference={"jobs": 3}, resources={"predict": {"gpu_model": "a100"}})
    # Two crops, in three parts each.
    assert run.planned("submission.zip")["predict_part"] == 6
