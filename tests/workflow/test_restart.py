"""Runs on one machine that die, and what the next one takes up."""

import json
import os
import shutil
import signal

import pytest

from cellmap_pipeline.run import locks as ownership
from tests.support.runs import wait_until

CROP = "results/tiny/predictions/demo_cell-1/crop5"
OWNER = "results/logs/predict/tiny/demo_cell-1/crop5.owner"


@pytest.fixture(scope="module")
def trained(finished_run):
    """A run with a trained network, before its test crops are predicted."""
    made = finished_run()
    shutil.rmtree(made.folder / "results/tiny/predictions")
    return made


def killed_while_it_predicts(run):
    """The process id of the job that is left of a run."""
    process = run.start(CROP, entry=True)
    path = run.folder / OWNER
    owner = wait_until(lambda: ownership.read(path), process)
    process.kill()
    process.wait()
    return owner


def log_of_prediction(run):
    try:
        return (run.folder / OWNER).with_suffix(".log").read_text()
    except FileNotFoundError:  # Snakemake has just removed what the last job wrote.
        return ""


def test_a_job_that_still_runs_is_waited_for(trained):
    owner = killed_while_it_predicts(trained)
    assert ownership.lives(owner)
    said = trained.snakemake(CROP, entry=True).stdout
    assert f"predict/tiny/demo_cell-1/crop5: process {owner.pid} on" in said
    # What it made is not made again, and is known to be of these settings.
    assert "goes on where it was" in log_of_prediction(trained)
    assert trained.planned(CROP) == {}
    trained.train("tiny", inference={"overlap": 0.5})
    assert trained.planned(CROP) == {"predict": 1}


@pytest.mark.slow
def test_what_a_job_made_of_other_settings_is_not_taken(trained):
    """It ended after the death of its run, and before the next."""
    trained.train("tiny", inference={"overlap": 0.3})
    owner = killed_while_it_predicts(trained)
    wait_until(lambda: not ownership.lives(owner))
    assert (trained.folder / CROP).is_dir()
    before = json.loads((trained.folder / CROP / "done.json").read_text())
    trained.train("tiny", inference={"overlap": 0.6})
    trained.snakemake(CROP, entry=True)
    assert "goes on where it was" not in log_of_prediction(trained)
    after = json.loads((trained.folder / CROP / "done.json").read_text())
    assert after["fingerprint"] != before["fingerprint"]


@pytest.mark.slow
def test_snakemake_by_itself_waits_for_it_too(trained):
    trained.train("tiny", inference={"overlap": 0.2})
    owner = killed_while_it_predicts(trained)
    os.kill(owner.pid, signal.SIGSTOP)
    try:
        done = trained.snakemake(CROP, check=False)
        assert "--unlock" in done.stdout
        trained.snakemake("--unlock", CROP)
        process = trained.start(CROP)
        wait_until(lambda: f"process {owner.pid} on" in log_of_prediction(trained), process)
    finally:
        os.kill(owner.pid, signal.SIGCONT)
    assert process.wait(120) == 0


@pytest.mark.slow
def test_two_runs_at_once(trained):
    trained.train("tiny", inference={"overlap": 0.1})
    # Also one that was not started by `cellmap-pipeline run`.
    process = trained.start(CROP)
    wait_until((trained.folder / ".snakemake/locks").exists, process)
    wait_until(lambda: ownership.read(trained.folder / ".snakemake/run.owner").pid == process.pid)
    refused = trained.snakemake(CROP, entry=True, check=False)
    assert refused.returncode == 1
    assert f"error: a run lives in this folder: process {process.pid} on" in refused.stdout
    # Planning is no run.
    assert "predict" in trained.snakemake("--dry-run", CROP, entry=True).stdout
    assert process.wait(120) == 0


@pytest.mark.slow
def test_what_failed_stands_at_the_end_with_its_log(trained, small_data):
    trained.train("tiny", inference={"overlap": 0.4})
    checkpoint = trained.folder / "results/tiny/model.ckpt"
    kept, times = checkpoint.read_bytes(), checkpoint.stat()
    checkpoint.write_bytes(b"no checkpoint")
    os.utime(checkpoint, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = trained.snakemake("selection.csv", check=False)
    checkpoint.write_bytes(kept)
    os.utime(checkpoint, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert done.returncode == 1
    assert "1 failed; 3 that need them did not run:\n" in done.stdout, done.stdout
    name, log, why, *_ = done.stdout.split("did not run:\n")[1].splitlines()
    assert name == "  predict_validation tiny"
    assert log == "    results/logs/predict_validation/tiny.log"
    assert why.startswith("      error: results/tiny/model.ckpt is not a checkpoint")
