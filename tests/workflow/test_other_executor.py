"""The PBS profile of docs/cluster.md, with stand-ins for the commands of PBS."""

import os
import re

import pytest
import yaml

QSUB = """#!/bin/sh
# Runs a job in the background and records its exit status; the first one fails.
echo "$*" >> "$PBS/requests"
number=$(wc -l < "$PBS/requests")
for script; do :; done
[ "$number" = 1 ] && script=/nowhere
(sh "$script" > "$PBS/$number.out" 2>&1; echo $? > "$PBS/$number.ended") < /dev/null &
echo "$number.server"
"""
QSTAT = """#!/bin/sh
for job; do :; done
ended="$PBS/${job%.server}.ended"
if [ -s "$ended" ]; then echo "    job_state = F"; echo "    Exit_status = $(cat "$ended")"
else echo "    job_state = R"; fi
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def pbs(tmp_path, monkeypatch):
    """The folder in which the stand-ins record requests and exit statuses."""
    for name, text in {"qsub": QSUB, "qstat": QSTAT}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PBS", str(tmp_path))
    return tmp_path


def test_documented_pbs_profile(new_run, pbs):
    run = new_run()
    page = (run.root / "docs/cluster.md").read_text()
    (text,) = re.findall(r"```yaml\n(executor: cluster-generic\n.*?)```", page, re.S)
    assert yaml.safe_load(text)["executor"] == "cluster-generic"
    (run.folder / "pbs").mkdir()
    (run.folder / "pbs/profile.yaml").write_text(text)
    run.profile, run.options = str(run.folder / "pbs"), ("--latency-wait", "5")
    assert run.planned("submission.zip")["train"] == 1
    run.snakemake("results/tiny/datasplit.csv")
    # Retries request more memory.
    first, again, split, datasplit = (pbs / "requests").read_text().splitlines()
    assert "select=1:ncpus=8:ngpus=0:mem=4000mb -l walltime=3600" in first
    assert "mem=8000mb -l walltime=7200" in again
    assert "mem=2000mb -l walltime=3600" in split
    assert "mem=2000mb -l walltime=1800" in datasplit
    # A failing job's message is shown.
    run.train("tiny", classes=["mito", "golgi"])
    done = run.snakemake("--retries", "0", "results/tiny/datasplit.csv", check=False)
    assert done.returncode != 0 and "a labeled voxel of golgi" in done.stdout
