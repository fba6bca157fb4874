"""A training job that is told to end in the middle of a run of Snakemake."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def training_process(folder):
    """The process id of the script that trains in `folder`; None before it runs."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode().split("\0")
        except (FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
            continue
        scripts = [w for w in words if w.startswith(str(folder)) and w.endswith(".train.py")]
        if scripts and "python" in words[0]:
            return int(entry.parent.name)
    return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_retry_goes_on(new_run, number):
    run = new_run()
    run.train("tiny", epochs=3, iterations_per_epoch=40, checkpoint_minutes=0.001)
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--snakefile", run.root / "Snakefile",
         "--profile", run.root / "profiles/local", "--cores", "2", "results/tiny/model.ckpt"],
        cwd=run.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    last = run.folder / "results/tiny/training/checkpoints/last.ckpt"
    while not last.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    pid = training_process(run.folder)
    assert pid is not None
    os.kill(pid, number)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "Trying to restart job" in said
    assert "going on from" in (run.folder / "results/logs/train/tiny.log").read_text()
    with (run.folder / "results/tiny/training/metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["40", "80", "120"]
    # Nothing is left to do, and more epochs go on from there.
    assert run.planned("results/tiny/model.ckpt") == {}
    run.train("tiny", epochs=4, iterations_per_epoch=40)
    run.snakemake("results/tiny/model.ckpt")
    with (run.folder / "results/tiny/training/metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["40", "80", "120", "160"]
