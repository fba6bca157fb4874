"""A training job that is interrupted during a run of Snakemake."""

import csv
import os
import signal

from tests.support.runs import wait_until


def read_steps(run):
    """Return the number of optimizer steps after each epoch."""
    with (run.folder / "results/tiny/training/metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_retries_resume_after_sigterm_and_sigkill(new_run):
    """The training of one run gets SIGTERM, and its retry gets SIGKILL."""
    run = new_run()
    run.train("tiny", epochs=3, iterations_per_epoch=16, checkpoint_minutes=0.001)
    process = run.start("results/tiny/model.ckpt")
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
    assert process.wait(300) == 0, run.output.read_text()
    assert run.output.read_text().count("Trying to restart job") == 2
    assert "resuming from" in log.read_text()
    assert read_steps(run) == [16, 32, 48]
    assert run.planned("results/tiny/model.ckpt") == {}
