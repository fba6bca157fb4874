"""Runs that are killed on one machine, and how the next run continues."""

import json
import os
import shutil
import signal

import pytest

from cellmap_pipeline.run.locking import locks
from tests.support.runs import wait_until

CROP = "results/tiny/predictions/demo_cell-1/crop5"
LOCK = "results/logs/predict/tiny/demo_cell-1/crop5.owner"


@pytest.fixture(scope="module")
def trained(finished_run):
    """A run with a trained network, before its test crops are predicted."""
    made = finished_run()
    shutil.rmtree(made.folder / "results/tiny/predictions")
    return made


def kill_during_prediction(run):
    """Kill a run during its prediction job, and return the lock holder of the surviving job."""
    process = run.start(CROP, entry=True)
    path = run.folder / LOCK
    holder = wait_until(lambda: locks.read_holder(path), process)
    process.kill()
    process.wait()
    return holder


def read_prediction_log(run):
    try:
        return (run.folder / LOCK).with_suffix(".log").read_text()
    except FileNotFoundError:  # Snakemake has just removed what the last job wrote.
        return ""


def test_running_job_of_a_dead_run_is_waited_for(trained):
    holder = kill_during_prediction(trained)
    assert locks.is_alive(holder)
    output = trained.snakemake(CROP, entry=True).stdout
    assert f"predict/tiny/demo_cell-1/crop5: process {holder.pid} on" in output
    # Its results are reused, and are known to be made with these settings.
    assert "resuming where it stopped" in read_prediction_log(trained)
    assert trained.planned(CROP) == {}
    trained.train("tiny", inference={"overlap": 0.5})
    assert trained.planned(CROP) == {"predict": 1}


@pytest.mark.slow
def test_results_of_other_settings_are_not_reused(trained):
    """The job ends after its run was killed and before the next run starts."""
    trained.train("tiny", inference={"overlap": 0.3})
    holder = kill_during_prediction(trained)
    wait_until(lambda: not locks.is_alive(holder))
    assert (trained.folder / CROP).is_dir()
    before = json.loads((trained.folder / CROP / "done.json").read_text())
    trained.train("tiny", inference={"overlap": 0.6})
    trained.snakemake(CROP, entry=True)
    assert "resuming where it stopped" not in read_prediction_log(trained)
    after = json.loads((trained.folder / CROP / "done.json").read_text())
    assert after["fingerprint"] != before["fingerprint"]


@pytest.mark.slow
def test_plain_snakemake_waits_for_the_job_and_a_simultaneous_run_is_refused(trained):
    trained.train("tiny", inference={"overlap": 0.2})
    holder = kill_during_prediction(trained)
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        done = trained.snakemake(CROP, check=False)
        assert "--unlock" in done.stdout
        trained.snakemake("--unlock", CROP)
        # This run is not started by `cellmap-pipeline run`.
        process = trained.start(CROP)
        wait_until(lambda: f"process {holder.pid} on" in read_prediction_log(trained), process)
        active = locks.read_holder(trained.folder / ".snakemake/run.owner")
        assert active.pid == process.pid
        refused = trained.snakemake(CROP, entry=True, check=False)
        assert refused.returncode == 1
        message = f"error: another run is active in this folder: process {process.pid} on"
        assert message in refused.stdout
        # Planning is allowed.
        assert "predict" in trained.snakemake("--dry-run", CROP, entry=True).stdout
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    assert process.wait(120) == 0


@pytest.mark.slow
def test_failed_job_is_listed_at_the_end_with_its_log(trained, small_data):
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
