"""Training on several nodes: scripts stand in for Slurm's programs, this machine for the nodes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.run.jobs import OTHER_NODE
from cellmap_pipeline.training import nodes as module
from cellmap_pipeline.training.interruption import EXIT_CODE, Resumable
from cellmap_pipeline.training.nodes import (
    find_other_nodes,
    resumed_by_first_node,
    srun_command,
    srun_environment,
    started_on,
)
from tests.support.trainings import REPRODUCIBLE, read_rows, read_weights

# It runs the command after its options, and notes both.
SRUN = """#!/bin/sh
folder=$(dirname "$0")
echo "$@" > $folder/arguments
while case "$1" in --*) ;; *) false ;; esac; do shift; done
SLURM_PROCID=0 SLURM_LAUNCH_NODE_IPADDR=127.0.0.1 "$@" &
echo $! > $folder/pid
trap 'kill -9 $(cat $folder/pid)' TERM
wait $(cat $folder/pid)
code=$?
[ $code -lt 128 ] && echo "srun: error: n2: task 0: Exited with exit code $code" >&2
[ $code -lt 128 ] || echo "srun: error: n2: task 0: Killed" >&2
exit $code
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Folder of programs that stand in for Slurm's, in a job of two nodes, n1 and n2."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "srun": SRUN, "squeue": "#!/bin/sh\necho 'n[1-2]'\n",
        "scontrol": "#!/bin/sh\necho n1\necho n2\n",
    }.items():  # fmt: skip
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    return programs


def test_a_job_has_enough_nodes(slurm):
    assert find_other_nodes(2) == ["n2"]
    with pytest.raises(InputError, match=r"nodes: 3 nodes are requested, but Slurm job 5 has 2 \("):
        find_other_nodes(3)
    (slurm / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error' >&2\nexit 1\n")
    with pytest.raises(UnavailableError, match="Slurm does not answer: .*squeue.*load_jobs error"):
        find_other_nodes(2)


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "SLURMD_NODENAME", "srun"])
def test_several_nodes_take_slurm(slurm, monkeypatch, missing):
    monkeypatch.setenv("PATH", str(slurm))
    (slurm / "srun").unlink() if missing == "srun" else monkeypatch.delenv(missing)
    with pytest.raises(InputError, match="nodes: 2 nodes train together only within a job of Slu"):
        find_other_nodes(2)
    assert find_other_nodes(1) == []


def test_srun_starts_the_script_once_on_each_other_node(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", "a b"])
    command = srun_command(["n2", "n4"])
    options = command[: command.index("sh")]
    assert options[:4] == ["srun", "--nodes=2", "--ntasks=2", "--nodelist=n2,n4"]
    assert {"--ntasks-per-node=1", "--overlap", "--kill-on-bad-exit=1"} <= {*options}
    assert command[-3:] == [sys.executable, str(Path("scripts/train.py").absolute()), "a b"]
    # Slurm numbers them from 0, which is the first node's number.
    shell = [*command[len(options) : -3], "sh", "-c", "echo $NODE_RANK $MASTER_ADDR"]
    environment = os.environ | {"SLURM_PROCID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}
    printed = subprocess.run(shell, env=environment, capture_output=True, text=True).stdout
    assert printed == "2 10.0.0.7\n"


def test_job_steps_do_not_inherit_from_each_other(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SLURM_MEM_PER_NODE", "SRUN_DEBUG", "OTHER"):
        monkeypatch.setenv(name, "5")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    environment = srun_environment(1234, Resumable(Path("a/last.ckpt"), 7))
    assert {name for name in environment if name.startswith(("SLURM", "SRUN"))} == {"SLURM_JOB_ID"}
    assert (environment["OTHER"], environment["MASTER_PORT"]) == ("5", "1234")
    monkeypatch.setenv(OTHER_NODE, environment[OTHER_NODE])
    assert resumed_by_first_node() == (Path("a/last.ckpt"), 7)
    monkeypatch.setenv(OTHER_NODE, srun_environment(1234, None)[OTHER_NODE])
    assert resumed_by_first_node() is None


def trainer(launcher=None):
    environment = SimpleNamespace(main_port=1234)
    strategy = SimpleNamespace(cluster_environment=environment, launcher=launcher)
    return SimpleNamespace(is_global_zero=True, strategy=strategy)


def test_a_process_that_waits_for_failed_ones_ends(slurm, monkeypatch, capfd):
    (slurm / "srun").write_text(
        "#!/bin/sh\necho 'error: weights of n2'\n"
        "echo 'srun: error: n2: task 0: Exited with exit code 1' >&2\nexit 1\n"
    )
    ended, killed = threading.Event(), []
    codes = []
    monkeypatch.setattr(module, "END_S", 0.2)
    monkeypatch.setattr(module.os, "_exit", lambda code: (codes.append(code), ended.set()))
    with started_on(["n2"], trainer(SimpleNamespace(kill=killed.append)), None):
        assert ended.wait(10)
    assert (codes, killed) == ([1], [signal.SIGKILL])
    printed = capfd.readouterr().err
    # The last error of a log is that of the training.
    assert "error: weights of n2\nerror: the processes on n2 failed, and this " in printed
    assert "Exited" not in printed


def test_processes_of_other_nodes_end_with_the_training(slurm, monkeypatch):
    (slurm / "srun").write_text("#!/bin/sh\nexec sleep 60\n")
    begin = time.monotonic()
    with pytest.raises(InputError, match="the loss"), started_on(["n2"], trainer(), None):
        time.sleep(0.5)
        raise InputError("the loss")
    assert time.monotonic() - begin < 20


@pytest.mark.slow
def test_two_nodes_train_like_two_devices(slurm, begin, tmp_path):
    changes = REPRODUCIBLE | {"epochs": 2, "iterations_per_epoch": 4, "learning_rate": 0.1}
    changes |= {"scheduler": {"name": "cosine", "warmup_steps": 3}}
    for folder, where in {"devices": {"devices": 2}, "nodes": {"devices": 1, "nodes": 2}}.items():
        process = begin(folder, **changes | where)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert "--nodelist=n2" in (slurm / "arguments").read_text()
    folders = [tmp_path / "devices", tmp_path / "nodes"]
    (steps, expected), (taken, weights) = map(read_weights, folders)
    assert steps == taken == 8
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for like, row in zip(*map(read_rows, folders), strict=True):
        for key in ("step", "learning_rate", "train_loss", "val_dice"):
            assert row[key] == like[key]
    text = (tmp_path / "nodes/train.log").read_text()
    assert text.count("parameters on 1 crops") == 1 and "starting on n2, too" in text


@pytest.mark.slow
def test_nodes_stop_together_and_resume(slurm, begin, tmp_path):
    """The signal is sent to the process of the second node alone; later, that one is killed."""
    endless = REPRODUCIBLE | {"epochs": 1000, "nodes": 2, "devices": 1}
    endless["validation_iterations"] = 1
    last = tmp_path / "run/training/checkpoints/last.ckpt"
    log = tmp_path / "run/train.log"

    def signal_second(number):
        process = begin("run", **endless)
        before = last.stat().st_mtime_ns if last.exists() else 0
        while not last.exists() or last.stat().st_mtime_ns == before:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.kill(int((slurm / "pid").read_text()), number)
        _, errors = process.communicate(timeout=module.END_S + 60)
        return process.returncode, errors

    code, errors = signal_second(signal.SIGTERM)
    assert code == EXIT_CODE, errors
    assert "stopping; the next start resumes from" in log.read_text()
    code, errors = signal_second(signal.SIGKILL)
    assert code not in (0, EXIT_CODE)
    assert "resuming from" in log.read_text()
    assert "srun: error: n2: task 0: Killed" in log.read_text()
    code, errors = signal_second(signal.SIGTERM)
    assert code == EXIT_CODE, errors
    assert "resuming from" in log.read_text()
    epochs = [int(row["epoch"]) for row in read_rows(tmp_path / "run")]
    assert epochs == list(range(len(epochs)))
