"""The profile of LSF, with stand-ins for its commands that run jobs as LSF does."""

import os
import re
import shutil
import signal
from dataclasses import replace

import pytest

from tests.support.runs import wait_until

# Runs a job in a session of its own, by a shell that waits for it.
BSUB = """#!/bin/sh
echo "$*" >> "$LSF/requests"
number=$(wc -l < "$LSF/requests")
while [ $# -gt 1 ]; do
    [ "$1" = -o ] && log=$2
    shift 2
done
printf 'echo $$ > "$LSF/%s.group"\\n%s\\nexit $?\\n' $number "$1" > "$LSF/$number.sh"
(
    LSB_JOBID=$number setsid --wait sh "$LSF/$number.sh" >> "$log" 2>&1
    echo $? > "$LSF/$number.ended"
) < /dev/null > /dev/null 2>&1 &
echo "Job <$number> is submitted to queue <normal>."
"""
BJOBS = """#!/bin/sh
for job in "$LSF"/*.sh; do
    number=$(basename "$job" .sh)
    if [ ! -s "$LSF/$number.ended" ]; then echo "$number RUN"
    elif [ "$(cat "$LSF/$number.ended")" = 0 ]; then echo "$number DONE"
    else echo "$number EXIT"; fi
done
"""
BKILL = """#!/bin/sh
for number; do
    kill -INT "-$(cat "$LSF/$number.group")"
done
"""
BADMIN = """#!/bin/sh
echo "MBD configuration at Mon Nov 30 12:00:00 2026"
echo "        LSB_SHAREDIR = $LSF"
echo "        LSF_CONFDIR = $LSF"
echo "        LSF_UNIT_FOR_LIMITS = GB"
"""
LSCLUSTERS = """#!/bin/sh
echo "CLUSTER_NAME STATUS MASTER_HOST ADMIN HOSTS SERVERS"
echo "test         ok     node1       lsf   1     1"
"""
BHIST = """#!/bin/sh
echo "Job <1>, User <me>, Project <lab>, Command <sleep>"
"""
PROGRAMS = {
    "bsub": BSUB, "bjobs": BJOBS, "bkill": BKILL, "badmin": BADMIN, "lsclusters": LSCLUSTERS,
    "bhist": BHIST,
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def lsf(tmp_path, monkeypatch):
    """The folder in which the stand-ins record requests and exit statuses."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    parameters = tmp_path / "lsbatch/test/configdir/lsb.params"
    parameters.parent.mkdir(parents=True)
    parameters.write_text("Begin Parameters\nDEFAULT_QUEUE = normal   # of all\nEnd Parameters\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LSF", str(tmp_path))
    return tmp_path


def on_lsf(run):
    """Return the run with the profile of LSF, and shorter waits."""
    options = ("--latency-wait", "5", "--seconds-between-status-checks", "1")
    return replace(run, profile="lsf", options=options)


@pytest.fixture
def run(new_run, lsf):
    return on_lsf(new_run())


def requests(lsf, rule):
    """The requests of a rule's jobs, without their names."""
    lines = (lsf / "requests").read_text().splitlines()
    return [line.split(" -env all ")[1] for line in lines if f"Snakemake_rule_{rule}" in line]


def test_a_failed_job_is_retried_with_more_and_its_logs_are_named(run, lsf):
    run.train("tiny", classes=["mito", "golgi"])
    assert run.planned("submission.zip")["train"] == 1
    done = run.snakemake("--retries", "1", "results/tiny/datasplit.csv", check=False)
    assert done.returncode != 0
    # Memory is requested per processor, in the cluster's unit.
    for job, minutes, mb in zip(
        requests(lsf, "check_inputs"), (60, 120), (4000, 8000), strict=True
    ):
        gb = mb / 1024 / 8
        assert job.startswith(
            f"-P lab -q normal -W {minutes} -n 8 -R rusage[mem={gb}] -R span[hosts=1]"
        )
        assert "-gpu" not in job
    (failed,) = re.findall(r"\n1 failed; .*", done.stdout, re.S)
    assert "a labeled voxel of golgi" in failed
    (log,) = re.findall(r"^ +(\S*lsf_logs\S+)$", failed, re.M)
    # The logs of both attempts.
    assert (run.folder / log).read_text().count("a labeled voxel of golgi") == 2


def test_all_labels_of_a_crop_are_one_job(finished_run, lsf):
    run = on_lsf(finished_run())
    crop = run.folder / "results/segmentations/demo_cell-1/crop5"
    labels = sorted(path.name for path in crop.iterdir())
    assert len(labels) == 3
    shutil.rmtree(crop)
    run.snakemake("--", *(f"results/segmentations/demo_cell-1/crop5/{label}" for label in labels))
    assert sorted(path.name for path in crop.iterdir()) == labels
    (request,) = (lsf / "requests").read_text().splitlines()
    # Four labels at a time.
    assert "-J Snakemake_group_crop_demo_cell-1_5:" in request and "-W 120 -n 3 " in request
    (folder,) = (run.folder / ".snakemake/lsf_logs").iterdir()
    assert folder.name == "group_crop_demo_cell-1_5" and len(list(folder.rglob("*.log"))) == 1


def test_a_warned_training_resumes(run, lsf):
    run.train("tiny", iterations_per_epoch=1_000_000, checkpoint_minutes=1000, resources={
        "train": {"runtime": 3, "gpu_model": "A100"}})  # fmt: skip
    replace(run, profile="local", options=("--cores", "2")).snakemake("results/tiny/datasplit.csv")
    process = run.start("results/tiny/model.ckpt")
    log = run.folder / "results/logs/train/tiny.log"

    def read_log():
        return log.read_text() if log.exists() else ""

    wait_until(lambda: "train_loss_step" in read_log(), process)
    # As LSF does before the time limit.
    os.killpg(int((lsf / "1.group").read_text()), signal.SIGURG)
    ended = [lsf / f"{number}.ended" for number in (1, 2)]
    wait_until(ended[0].exists, process)
    # The shell was not ended by the signal, nor was Snakemake; it reports the training's failure.
    assert ended[0].read_text() == "1\n"
    assert "URG: the training stops after this step" in read_log()
    wait_until(lambda: "resuming from" in read_log(), process)
    assert int(re.search(r", step (\d+)", read_log())[1]) > 0
    first, again = requests(lsf, "train")
    assert "-W 3 -n 8" in first and "-W 3 -n 8" in again
    options = "-gpu num=1:j_exclusive=yes:gmodel=A100 -wa URG -wt 2 -cwd"
    assert options in first and options in again
    # Ctrl-C ends the jobs by `bkill`.
    wait_until(lambda: "train_loss_step" in read_log(), process)
    process.send_signal(signal.SIGINT)
    process.wait(120)
    wait_until(ended[1].exists, seconds=60)
    assert "stopping; the next start resumes from" in read_log()
