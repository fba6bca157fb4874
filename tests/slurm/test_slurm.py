"""The small demo on a real Slurm cluster, with and without failures."""

import csv
import json
import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import read_manifest, write_manifest
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.submission.check import check
from tests.support.runs import wait_until

pytestmark = pytest.mark.slurm


def read_steps(run, training):
    """Return the number of optimizer steps after each epoch."""
    with (run.folder / f"results/{training}/training/metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def locally(run):
    """Return the run without Slurm, for jobs that a test is not about."""
    return replace(run, profile="local", options=("--cores", "2"))


def splits(*names):
    return [f"results/{name}/datasplit.csv" for name in names]


def read_log(run, name):
    path = run.folder / f"results/logs/{name}.log"
    return path.read_text() if path.exists() else ""


def requested(cluster, job):
    """Return the resources that a job requested: GPUs, memory (MB), minutes, CPUs."""
    output = cluster.query("scontrol", "show", "job", job)
    days, hours, minutes = re.search(r"TimeLimit=(?:(\d+)-)?(\d+):(\d+):00", output).groups()
    gpus = re.search(r"TresPer(?:Job|Node)=gres[:/]gpu:(\d+)", output)
    return (
        int(gpus[1]) if gpus else 0,
        int(re.search(r"MinMemoryNode=(\d+)M", output)[1]),
        int(days or 0) * 1440 + int(hours) * 60 + int(minutes),
        int(re.search(r"NumCPUs=(\d+)", output)[1]),
    )


def test_whole_demo(run, cluster, small_data, tmp_path, monkeypatch):
    own = {"predict": {"mem_mb": 10_000, "cpus_per_task": 2}, "validate": {"cpus_per_task": 3}}
    run.train("tiny", memory_gb=1, resources=own)
    # Select the profile by its name, as users do.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    subprocess.run(["make", "-C", run.root, "install-profiles"], check=True)
    output = run.snakemake(
        "--profile", "slurm", "--resources", "labels=2",
        "--set-resources", "predict:runtime=90", "--", "submission.zip"
    )  # fmt: skip
    assert check(run.folder / "submission.zip", read_manifest(
        small_data / "test_crop_manifest.csv")) == []  # fmt: skip
    jobs = cluster.jobs(run.folder)
    # The five labels of two crops take two jobs, and no job was retried.
    assert list(jobs.values()) == ["COMPLETED"] * 11, output.stdout
    assert len(cluster.jobs(run.folder, "crop_demo_cell-")) == 2
    # Resources are set by the rule, the training's file, the command line and the profile.
    for rule, expected in {
        "rule_train_": (1, 26_000, 2880, 8),
        "rule_predict_validation_": (1, 10_000, 720, 2),
        "rule_validate_": (0, 32_000, 480, 3),
        "rule_predict_wildcards": (1, 10_000, 90, 2),
        "rule_package": (0, 8000, 120, 4),
        # Three labels, two of them in parallel.
        "crop_demo_cell-1": (0, 16_000, 240, 2),
    }.items():
        found = [requested(cluster, job) for job in cluster.jobs(run.folder, rule)]
        assert found and set(found) == {expected}, rule
    assert run.planned("submission.zip") == {}


def test_time_and_memory_limits(run, cluster):
    # Only a signal makes these trainings write a checkpoint.
    endless = {"iterations_per_epoch": 1_000_000, "checkpoint_minutes": 1000}
    # Enough time for the first steps, also on a busy machine. Slurm may warn a minute too early.
    for name in ("slow", "warned"):
        run.train(name, **endless, resources={"train": {"runtime": 3}})
    run.train("hungry", resources={"train": {"mem_mb": 400}})
    run.configure(trainings=["slow", "warned", "hungry"])
    locally(run).snakemake(*splits("slow", "warned", "hungry"))
    signal_early = "'--signal=TERM@40' if wildcards.network == 'warned' else ''"
    process = run.start(
        "--set-resources", f"train:slurm_extra={signal_early}", "--",
        *(f"results/{name}/model.ckpt" for name in ("slow", "warned", "hungry")),
    )  # fmt: skip
    # Their retries resume.
    for name in ("slow", "warned"):
        wait_until(
            lambda name=name: "resuming from" in read_log(run, f"train/{name}"), process, 600
        )
        assert int(re.search(r", step (\d+)", read_log(run, f"train/{name}"))[1]) > 0
    wait_until((run.folder / "results/hungry/model.ckpt").exists, process)
    first, *_ = cluster.jobs(run.folder, "train_wildcards_slow").values()
    assert first == "TIMEOUT"
    # It wrote its checkpoint and ended by itself.
    first, *_ = cluster.jobs(run.folder, "train_wildcards_warned").values()
    assert first == "FAILED"
    jobs = cluster.jobs(run.folder, "train_wildcards_hungry")
    assert list(jobs.values())[0] in ("OUT_OF_MEMORY", "FAILED", "CANCELLED")
    memory = [requested(cluster, job)[1] for job in jobs]
    assert len(memory) > 1 and memory == [400 * (i + 1) for i in range(len(memory))]
    # Ctrl-C cancels the jobs, which write their checkpoints, too.
    wait_until(lambda: "train_loss_step" in read_log(run, "train/slow"), process)
    process.send_signal(signal.SIGINT)
    process.wait(120)
    wait_until(lambda: "RUNNING" not in cluster.jobs(run.folder, "train_wildcards").values())
    assert "stopping; the next start resumes from" in read_log(run, "train/slow")


def test_canceled_prediction_resumes(run, cluster):
    # A crop deep enough to be predicted in several parts.
    rows = [CropLabel(5, "demo_cell-1", "pm", Grid((8, 8, 8), (0, 1264, 128), (96, 32, 32)))]
    write_manifest(rows, run.folder / "deep.csv")
    run.configure(test_crops="deep.csv", ground_truth=None)
    run.train("tiny", inference={"overlap": 0.5, "symmetries": 8})
    locally(run).snakemake("results/tiny/model.ckpt")
    process = run.start("--", "crop5")
    done = run.folder / "results/tiny/predictions/demo_cell-1/crop5.partial/done.json"

    def has_progress():
        return done.exists() and json.loads(done.read_text())["done"]["pm"] > 0

    wait_until(has_progress, process)
    (job,) = cluster.jobs(run.folder, "rule_predict")
    cluster.query("scancel", job)
    assert process.wait(900) == 0
    assert list(cluster.jobs(run.folder, "rule_predict").values()) == ["CANCELLED", "COMPLETED"]
    assert "resuming where it stopped" in read_log(run, "predict/tiny/demo_cell-1/crop5")
    assert not done.parent.exists()


def test_job_array_partitions_and_gpu_model(run, cluster):
    rows = [CropLabel(5, "demo_cell-1", "pm", Grid((8, 8, 8), (0, 1264, 128), (96, 32, 32)))]
    write_manifest(rows, run.folder / "deep.csv")
    run.configure(test_crops="deep.csv", ground_truth=None)
    run.train("tiny", inference={"jobs": 3}, resources={"predict": {"gpu_model": "a100"}})
    locally(run).snakemake("results/tiny/model.ckpt")
    (run.folder / "partitions.yaml").write_text(
        "partitions:\n  main: {max_runtime: 3d}\n"
        "  gpu: {max_runtime: 3d, max_gpu: 2, available_gpu_models: [a100]}\n"
    )
    options = ("--slurm-partition-config", "partitions.yaml", "--slurm-array-jobs", "predict_part")
    # An array of jobs that cannot all be submitted at once would hang.
    refused = run.snakemake(*options, "--jobs", "2", "--", "crop5", check=False)
    assert refused.returncode == 1 and "Snakemake submits 2 at once" in refused.stdout
    run.snakemake(*options, "--", "crop5")
    parts = cluster.jobs(run.folder, "rule_predict_part")
    array = next(iter(parts)).partition("_")[0]
    assert parts == {f"{array}_{task}": "COMPLETED" for task in (1, 2, 3)}
    for part in parts:
        shown = cluster.query("scontrol", "show", "job", part)
        assert "Partition=gpu " in shown and re.search(r"TresPerJob=gres[:/]gpu:a100:1", shown)
        assert "NodeList=node1" in shown
    # The parts are joined without a GPU.
    (joined,) = set(cluster.jobs(run.folder, "rule_predict")) - set(parts)
    shown = cluster.query("scontrol", "show", "job", joined)
    assert "Partition=main " in shown and "gpu" not in shown.partition("TresPerJob")[2]


def test_training_on_two_devices(run, cluster):
    run.train("tiny", devices=2, iterations_per_epoch=20)
    locally(run).snakemake(*splits("tiny"))
    # Two GPUs are free, but on different nodes.
    other = cluster.query(
        "sbatch", "--parsable", "-o", "/dev/null", "-w", "node1", "--gpus=1", "--wrap", "sleep 600"
    )
    process = run.start("results/tiny/model.ckpt")
    wait_until(lambda: "PENDING" in cluster.jobs(run.folder, "rule_train").values(), process)
    wait_until(lambda: "Resources" in cluster.query("squeue", "-h", "-o", "%r"), process)
    cluster.query("scancel", other.strip())
    # Lightning starts the second process itself, within the Slurm job.
    (second,) = wait_until(lambda: processes_of(run, "LOCAL_RANK=1"), process)
    environment = Path(f"/proc/{second}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=0,1" in environment
    (job,) = cluster.jobs(run.folder, "rule_train")
    assert f"SLURM_JOB_ID={job}".encode() in environment
    assert process.wait(900) == 0
    assert read_steps(run, "tiny") == [20]
    assert "srun" not in read_log(run, "train/tiny")


def test_training_on_two_nodes(run, cluster):
    run.train("tiny", nodes=2, epochs=4, iterations_per_epoch=20, checkpoint_minutes=0.005)
    locally(run).snakemake(*splits("tiny"))
    process = run.start("results/tiny/model.ckpt")
    last = run.folder / "results/tiny/training/checkpoints/last.ckpt"

    def second_of_job(number):
        """Wait until a job has made steps; return it, and the process on its second node."""
        jobs = wait_until(lambda: list(cluster.jobs(run.folder, "rule_train"))[number:], process)
        (second,) = wait_until(lambda: processes_of(run, "NODE_RANK=1"), process, 120)
        since = last.stat().st_mtime_ns if last.exists() else 0
        wait_until(lambda: last.exists() and last.stat().st_mtime_ns > since, process, 120)
        return *jobs, second

    job, second = second_of_job(0)
    shown = cluster.query("scontrol", "show", "job", job)
    assert re.search(r"NumNodes=2 ", shown) and "NodeList=node[1-2]" in shown
    assert re.search(r"TresPerNode=gres[:/]gpu:1", shown)
    assert requested(cluster, job) == (1, 32_000, 2880, 2 * 8)
    environment = Path(f"/proc/{second}/environ").read_bytes().split(b"\0")
    assert {b"SLURMD_NODENAME=node2", b"CUDA_VISIBLE_DEVICES=0"} <= {*environment}
    os.kill(second, signal.SIGKILL)
    job, second = second_of_job(1)
    assert "resuming from" in read_log(run, "train/tiny")
    cluster.query("scancel", job)
    assert process.wait(900) == 0
    states = list(cluster.jobs(run.folder, "rule_train").values())
    assert states == ["FAILED", "CANCELLED", "COMPLETED"]
    assert int(re.search(r", step (\d+)", read_log(run, "train/tiny"))[1]) > 0
    assert read_steps(run, "tiny") == [20, 40, 60, 80]


def test_jobs_of_a_dead_run_are_waited_for(run, cluster):
    # The cluster has three GPUs: three trainings run, one waits.
    names = ["a", "b", "c", "d"]
    for name in names:
        run.train(name, epochs=10, iterations_per_epoch=20, checkpoint_minutes=0.005)
    run.configure(trainings=names)
    locally(run).snakemake(*splits(*names))
    targets = ["--", *(f"results/{name}/model.ckpt" for name in names)]
    process = run.start(*targets, entry=True)
    three = ["PENDING", "RUNNING", "RUNNING", "RUNNING"]
    wait_until(lambda: sorted(cluster.jobs(run.folder, "rule_train").values()) == three, process)
    before = cluster.jobs(run.folder, "rule_train")
    process.kill()
    process.wait()

    process = run.start(*targets, entry=True)
    wait_until(lambda: "waiting for jobs of the previous run" in run.output.read_text(), process)
    refused = run.snakemake(*targets, entry=True, check=False)
    assert refused.returncode == 1
    assert f"another run is active in this folder: process {process.pid} on" in refused.stdout
    assert process.wait(900) == 0
    after = cluster.jobs(run.folder, "rule_train")
    assert sorted(after[job] for job in before) == ["CANCELLED"] + ["COMPLETED"] * 3
    assert [state for job, state in after.items() if job not in before] == ["COMPLETED"] * 4
    for name in names:
        assert read_steps(run, name) == [20 * (i + 1) for i in range(10)]
    # The results are known to be made with these settings.
    assert run.planned(*targets) == {}
    run.train("a", epochs=10, iterations_per_epoch=20, learning_rate=2e-2)
    assert run.planned(*targets)["train"] == 1


def processes_of(run, variable):
    """Return the ids of processes in the run's folder with a variable in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            here = Path(os.readlink(entry / "cwd")) == run.folder
            if here and variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # The process has ended meanwhile.
            continue
    return found


@pytest.fixture
def small_disk(run):
    """The results folder on a disk of 50 MB."""
    folder = run.folder / "results"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_full_disk(run, cluster, small_disk):
    locally(run).snakemake("results/tiny/model.ckpt")
    with (small_disk / "other").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    output = run.snakemake("--retries", "0", "--", "crop5", check=False)
    assert output.returncode == 1
    assert (
        "1 failed; 1 that need them did not run:\n  predict tiny demo_cell-1 5\n" in output.stdout
    )
    assert f"{small_disk} is full" in output.stdout
    (small_disk / "other").unlink()
    locally(run).snakemake("submission.zip", entry=True)
    assert [path for path in small_disk.rglob("*.partial")] == []
