"""The status of a run is read from a log in the format of Snakemake 9.27."""

import io
from datetime import datetime

import pytest
import yaml
from rich.console import Console

from cellmap_pipeline.cli import main
from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.data.manifest import write_manifest
from cellmap_pipeline.geometry import Grid
from cellmap_pipeline.plan.make import read_plan
from cellmap_pipeline.report.status import Job, read_status, stage_time_left
from cellmap_pipeline.report.status_table import render_status
from cellmap_pipeline.run.locking.locks import read_holder, remove_dead, this_process, try_acquire
from cellmap_pipeline.run.progress import read_progress
from cellmap_pipeline.run.restart import RUN_LOCK
from cellmap_pipeline.run.snakemake.log import parse, read_logs

START = """
Building DAG of jobs...
Provided remote nodes: 100
Job stats:
job             count
------------  -------
check_inputs        1
train               1
predict             2
segment             3
package             1
all                 1
total               9

Select jobs to execute...
Execute 1 jobs...
[Wed Nov 25 05:32:39 2026]
localcheckpoint check_inputs:
    input: m.csv
    output: results/check_inputs.json
    log: results/logs/check_inputs.log
    jobid: 5
    benchmark: results/benchmarks/check_inputs.tsv
    reason: Missing output files: results/check_inputs.json
    resources: tmpdir=/tmp, mem_mb=4000
DAG of jobs will be updated after completion.
[Wed Nov 25 05:32:51 2026]
Finished jobid: 5 (Rule: check_inputs)
1 of 9 steps (11%) done
"""
TRAIN = """[Wed Nov 25 05:33:04 2026]
rule train:
    output: results/net/model.ckpt
    log: results/logs/train/net.log
    jobid: 3
    benchmark: results/benchmarks/train/net.tsv
    wildcards: training=net
Job 3 has been submitted with SLURM jobid 25 (log: results/logs/slurm/rule_train/net/25.log).
"""
TRAIN_FAILED = """[Wed Nov 25 05:40:00 2026]
Error in rule train:
    message: None
    jobid: 3
    output: results/net/model.ckpt
    log: results/logs/train/net.log (check log file(s) for error details)
Trying to restart job 3.
"""
TRAIN_DONE = """[Wed Nov 25 05:50:04 2026]
Finished jobid: 3 (Rule: train)
2 of 9 steps (22%) done
"""
PREDICT = """[Wed Nov 25 05:51:00 2026]
rule predict:
    output: results/net/predictions/d/crop7
    log: results/logs/predict/net/d/crop7.log
    jobid: 2
    benchmark: results/benchmarks/predict/net/d/crop7.tsv
    wildcards: training=net, dataset=d, crop=7
"""
PREDICTED = """[Wed Nov 25 05:52:40 2026]
Finished jobid: 2 (Rule: predict)
3 of 9 steps (33%) done
"""
GROUP = """[Wed Nov 25 05:53:00 2026] Group job crop_d_7 (jobs in lexicogr. order):
    [Wed Nov 25 05:53:00 2026]
    rule segment:
        output: results/segmentations/d/crop7/mito
        log: results/logs/segment/d/crop7/mito.log
        jobid: 9
        wildcards: dataset=d, crop=7, label=mito
    [Wed Nov 25 05:53:00 2026]
    rule segment:
        output: results/segmentations/d/crop7/nuc
        log: results/logs/segment/d/crop7/nuc.log
        jobid: 8
        wildcards: dataset=d, crop=7, label=nuc
"""
GROUP_FAILED = """[Wed Nov 25 05:55:00 2026]
    message: SLURM-job '29' failed, SLURM status is: 'TIMEOUT'.
    jobs:
        rule segment:
            jobid: 9
            output: results/segmentations/d/crop7/mito
        rule segment:
            jobid: 8
            output: results/segmentations/d/crop7/nuc
"""
BAR = "\rcrop7:  25%|##5       | 2/8 [00:10<00:30,  5.00s/window]"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that writes the log of an active run and returns the run's status."""
    monkeypatch.chdir(tmp_path)
    rows = [
        CropLabel(7, "d", "mito", Grid((8, 8, 8), (0, 0, 0), (10, 10, 10))),
        CropLabel(7, "d", "nuc", Grid((8, 8, 8), (0, 0, 0), (10, 10, 10))),
        CropLabel(9, "d", "nuc", Grid((8, 8, 8), (0, 0, 0), (10, 10, 40))),
    ]
    write_manifest(rows, tmp_path / "m.csv")
    training = {
        "classes": ["mito", "nuc"], "voxel_size": 8, "patch_size": 32,
        "model": {"architecture": "monai_basic_unet3d"},
    }  # fmt: skip
    config = {"data_root": "data", "test_crops": "m.csv", "trainings": ["net"]}
    for name, content in {"training/net.yaml": training, "config.yaml": config}.items():
        path = tmp_path / "config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    try_acquire(tmp_path / RUN_LOCK, this_process())
    (tmp_path / ".snakemake/log").mkdir()

    def status(*parts):
        file = tmp_path / ".snakemake/log/2026-11-25T053239.647943.snakemake.log"
        file.write_text("".join([START, *parts]))
        return read_status(read_plan(tmp_path / "config/config.yaml"))

    return status


def states(status):
    """States of the jobs by stage."""
    return {stage: [job.state for job in jobs] for stage, jobs in status.by_stage().items()}


def start_job(folder, name, output=""):
    """Write the log and the lock file of a running job."""
    log = folder / "results/logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(output)
    try_acquire(log.with_suffix(".owner"), this_process())


def test_jobs_are_parsed_from_a_log():
    log = parse(START + TRAIN + TRAIN_FAILED)
    assert log.planned == {
        "check_inputs": 1, "train": 1, "predict": 2, "segment": 3, "package": 1, "all": 1
    }  # fmt: skip
    check, train = log.jobs
    assert (check.rule, check.local, check.failed) == ("check_inputs", True, False)
    assert check.begun == datetime(2026, 11, 25, 5, 32, 39)
    assert check.ended == datetime(2026, 11, 25, 5, 32, 51)
    assert train.wildcards == {"training": "net"} and train.failed and not train.local
    retried = parse(START + TRAIN + TRAIN_FAILED + TRAIN).jobs[1]
    assert not retried.failed and retried.ended is None


def test_snakemake_calls_of_jobs_are_not_runs(run, tmp_path):
    run()
    later = tmp_path / ".snakemake/log/2026-11-25T060000.000000.snakemake.log"
    later.write_text("Building DAG of jobs...\nCreating report...\n")
    assert [log.planned["train"] for log in read_logs(tmp_path)] == [1]


def test_a_plan_made_during_a_run_does_not_hide_it(run, tmp_path):
    before = states(run(TRAIN))
    later = tmp_path / ".snakemake/log/2026-11-25T060000.000000.snakemake.log"
    later.write_text("Job stats:\njob    count\n-----  -----\nplan       1\ntotal      1\n\n")
    assert [log.planned["train"] for log in read_logs(tmp_path)] == [1]
    assert states(run(TRAIN)) == before


def test_submitted_jobs_are_queued_until_they_run(run, tmp_path):
    assert states(run(TRAIN)) == {
        "check_inputs": ["done"],
        "train": ["queued"],
        "predict": ["waiting"] * 2,
        "segment": ["waiting"] * 3,
        "package": ["waiting"],
    }
    start_job(tmp_path, "train/net")
    status = run(TRAIN)
    assert states(status)["train"] == ["running"]
    # The duration of the following stages is unknown.
    assert status.time_left == (0, False)


def test_jobs_of_a_group_have_their_own_states(run, tmp_path):
    start_job(tmp_path, "segment/d/crop7/mito")
    status = run(TRAIN, TRAIN_DONE, PREDICT, PREDICTED, GROUP)
    assert states(status)["segment"] == ["running", "queued", "waiting"]
    owner = tmp_path / "results/logs/segment/d/crop7/mito.owner"
    remove_dead(owner, read_holder(owner))
    assert states(run(TRAIN, TRAIN_DONE, PREDICT, PREDICTED, GROUP, GROUP_FAILED))["segment"] == [
        "failed", "failed", "waiting"
    ]  # fmt: skip


def test_time_left_is_estimated_from_the_voxels_of_completed_jobs(run, tmp_path):
    for name, seconds in (("train/net", 900), ("predict/net/d/crop7", 50)):
        path = tmp_path / f"results/benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True)
        path.write_text(f"s\th:m:s\n{seconds}\t-\n")
    status = run(TRAIN, TRAIN_DONE, PREDICT, PREDICTED)
    predicted = {job.crop: (job.state, job.seconds_left) for job in status.by_stage()["predict"]}
    assert predicted == {7: ("done", None), 9: ("waiting", 200)}
    crops = status.by_crop()
    assert sorted(crops) == [7, 9]
    assert [job.rule for job in crops[9]] == ["predict", "segment"]


def test_time_left_of_a_running_job_is_read_from_its_progress_bar(run, tmp_path):
    start_job(tmp_path, "predict/net/d/crop7", BAR)
    (job, other) = run(TRAIN, TRAIN_DONE, PREDICT).by_stage()["predict"]
    assert (job.progress.what, job.progress.share, job.seconds_left) == ("crop7", 0.25, 30)
    assert other.seconds_left is None


def test_results_of_earlier_runs_count_as_done(run, tmp_path):
    (tmp_path / "results/net/predictions/d/crop9").mkdir(parents=True)
    text = START.replace("predict             2", "predict             1")
    (tmp_path / ".snakemake/log/2026-11-26T000000.000000.snakemake.log").write_text(text)
    predicted = {job.crop: job.state for job in run().by_stage()["predict"]}
    assert predicted == {9: "done", 7: "waiting"}


def test_jobs_of_a_dead_run_are_stopped(run, tmp_path):
    remove_dead(tmp_path / RUN_LOCK, read_holder(tmp_path / RUN_LOCK))
    status = run(TRAIN)
    assert not status.alive
    assert states(status)["train"] == ["stopped"]


def test_parallel_jobs_shorten_the_time_down_to_the_longest_job():
    jobs = [
        Job("segment", {}, "running", seconds_left=5.0),
        Job("segment", {}, "running", seconds_left=1.0),
    ]
    waiting = [Job("segment", {}, "waiting", seconds_left=4.0) for _ in range(6)]
    assert stage_time_left(jobs + waiting) == (15, True)
    assert stage_time_left(jobs) == (5, True)
    assert stage_time_left([*jobs, Job("segment", {}, "waiting")]) == (5, False)
    assert stage_time_left([Job("segment", {}, "done")]) == (0, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("05:33:44 8 windows\n", None),
        ("\rcrop5:   0%|          | 0/8 [00:00<?, ?window/s]", ("crop5", 0.0, None)),
        (
            "\rEpoch 2:  75%|#######   | 6/8 [00:00<00:01, 9it/s, loss=1.3, all done in=1:02:03]"
            "\rValidation DataLoader 0: 100%|##########| 2/2 [00:00<00:00, 49.95it/s]",
            ("Epoch 2", 0.75, 3723.0),
        ),
        (
            "\rEpoch 0: 1%|  | 6/800 [00:00<09:59, 9it/s, all done in=2 days, 0:00:01]",
            ("Epoch 0", 0.01, 172801.0),
        ),
    ],
    ids=["no bar", "bar without an estimate", "bar with hours left", "bar with days left"],
)
def test_last_progress_bar_of_a_log_is_read(tmp_path, text, expected):
    (tmp_path / "a.log").write_text(text)
    assert read_progress(tmp_path / "a.log") == expected


def test_status_is_shown_in_tables(run, tmp_path, capsys):
    start_job(tmp_path, "predict/net/d/crop7", BAR)
    status = run(TRAIN, TRAIN_DONE, PREDICT)
    console = Console(file=io.StringIO(), width=100)
    console.print(render_status(status))
    printed = console.file.getvalue()
    assert "running, started 2026-11-25 05:32: 2 of 8 jobs done" in printed
    assert "predict net d 7" in printed and "25%" in printed and "0:00:30" in printed
    assert main(["status"]) == 0
    assert "0/2" in capsys.readouterr().out


def test_status_of_a_folder_without_a_run_says_so(run, tmp_path, capsys):
    assert main(["status"]) == 0
    assert "no run has been started" in capsys.readouterr().out
