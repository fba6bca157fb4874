"""A training job that is interrupted during a run of Snakemake, and the status of that run."""

import csv
import os
import shutil
import signal
from dataclasses import dataclass

import pytest

from cellmap_pipeline.plan.make import read_plan
from cellmap_pipeline.report.status import Job, Status, read_status
from tests.support.runs import Run, wait_until

TARGET = "results/tiny/model.ckpt"


@dataclass
class Interrupted:
    """A finished run whose training got SIGTERM, and its retry SIGKILL.

    Attributes
    ----------
    run
        The run.
    training
        Status of the training before it was interrupted.
    status
        Status of the finished run.
    restarts
        Number of jobs that Snakemake restarted.
    """

    run: Run
    training: Job
    status: Status
    restarts: int


@pytest.fixture(scope="module")
def interrupted(finished_run):
    run = finished_run()
    shutil.rmtree(run.folder / "results/tiny/training")
    run.train("tiny", epochs=2, iterations_per_epoch=20, checkpoint_minutes=0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.folder)
        plan = read_plan(run.folder / "config/config.yaml")
        process = run.start("--forcerun", "datasplit", "--", TARGET)

        def find_training():
            status = read_status(plan)
            jobs = status.by_stage().get("train", []) if status else []
            return next((job for job in jobs if job.progress and job.progress.left), None)

        training = wait_until(find_training, process)
        interrupt_twice(run, process)
        assert process.wait(300) == 0, run.output.read_text()
        restarts = run.output.read_text().count("Trying to restart job")
        return Interrupted(run, training, read_status(plan), restarts)


def interrupt_twice(run, process):
    """Send SIGTERM to the training, and SIGKILL to its retry."""
    last = run.folder / "results/tiny/training/checkpoints/last.ckpt"
    log = run.folder / "results/logs/train/tiny.log"
    wait_until(last.exists, process)
    first = run.job("train")
    os.kill(first, signal.SIGTERM)
    wait_until(lambda: log.exists() and "resuming from" in log.read_text(), process)
    written = last.stat().st_mtime_ns
    wait_until(lambda: last.stat().st_mtime_ns > written, process)
    second = run.job("train")
    assert second != first
    os.kill(second, signal.SIGKILL)


def read_steps(run):
    """Return the number of optimizer steps after each epoch."""
    with (run.folder / "results/tiny/training/metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_retries_resume_after_sigterm_and_sigkill(interrupted):
    run = interrupted.run
    assert interrupted.restarts == 2
    assert "resuming from" in (run.folder / "results/logs/train/tiny.log").read_text()
    assert read_steps(run) == [20, 40]
    assert run.planned(TARGET) == {}


def test_status_of_a_running_training(interrupted):
    job = interrupted.training
    assert job.state == "running" and job.wildcards == {"network": "tiny"}
    assert job.progress.what.startswith("Epoch ") and 0 < job.seconds_left < 600


def test_status_of_a_finished_run(interrupted):
    status = interrupted.status
    assert not status.alive
    assert list(status.by_stage()) == ["datasplit", "train"]
    assert {job.state for job in status.jobs} == {"done"}


def test_status_of_a_quiet_run(finished_run, monkeypatch):
    """Snakemake's log then lacks what `status` reads; hooks of the workflow record it."""
    run = finished_run()
    monkeypatch.chdir(run.folder)
    run.snakemake("--quiet", "--forcerun", "datasplit", "--", "results/tiny/datasplit.csv")
    status = read_status(read_plan(run.folder / "config/config.yaml"))
    assert [(job.rule, job.state) for job in status.jobs] == [("datasplit", "done")]
