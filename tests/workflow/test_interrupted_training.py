"""A training job that is told to end in the middle of a run of Snakemake."""

import csv
import os
import signal
import time

import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_retry_goes_on(new_run, number):
    run = new_run()
    run.train("tiny", epochs=3, iterations_per_epoch=40, checkpoint_minutes=0.001)
    process = run.start("results/tiny/model.ckpt")
    last = run.folder / "results/tiny/training/checkpoints/last.ckpt"
    while not last.exists():
        assert process.poll() is None, run.said.read_text()
        time.sleep(0.05)
    os.kill(run.job("train"), number)
    assert process.wait(300) == 0, run.said.read_text()
    assert "Trying to restart job" in run.said.read_text()
    assert "going on from" in (run.folder / "results/logs/train/tiny.log").read_text()
    with (run.folder / "results/tiny/training/metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["40", "80", "120"]
    # Nothing is left to do, and more epochs go on from there.
    assert run.planned("results/tiny/model.ckpt") == {}
    run.train("tiny", epochs=4, iterations_per_epoch=40)
    run.snakemake("results/tiny/model.ckpt")
    with (run.folder / "results/tiny/training/metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["40", "80", "120", "160"]
