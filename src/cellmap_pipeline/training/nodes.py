"""Training on several nodes of a Slurm job.

The job's script runs on the first node. Just before the training starts, `srun` runs the script
again on each other node, as Lightning does for the other GPUs of its own node. Their processes are
told by the environment where the first one is, and from which checkpoint it resumes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from cellmap_pipeline.errors import InputError, UnavailableError
from cellmap_pipeline.run.jobs import OTHER_NODE
from cellmap_pipeline.training.interruption import Interrupted, Resumable

log = logging.getLogger(__name__)

# Time in which processes end that are told to, or that others have left.
END_S = 30.0
QUERY_S = 60.0
# What `srun` inherits of its own job step; the rest would change the new one.
KEPT_VARIABLES = ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_JOBID")
OPTIONS = (
    "--ntasks-per-node=1",
    # Share the job's processors, memory and GPUs with the job step that runs the job's script.
    "--overlap", "--cpu-bind=none", "--mpi=none",
    # If a process fails, all others end, but not because one ends well before them.
    "--kill-on-bad-exit=1", "--wait=0",
)  # fmt: skip
# The variables on the left are read by Lightning, those on the right are set by Slurm.
START = 'NODE_RANK=$((SLURM_PROCID + 1)) MASTER_ADDR=$SLURM_LAUNCH_NODE_IPADDR exec "$@"'
# These processes have reported themselves why.
REPORTED = re.compile(r"srun: error: .* Exited with exit code")


def find_other_nodes(nodes: int) -> list[str]:
    """List the nodes besides this one that a training on a number of `nodes` uses.

    Raises
    ------
    InputError
        This is not a process of a Slurm job, on one of its nodes, or the job has too few nodes.
    UnavailableError
        Slurm does not answer.
    """
    if nodes == 1:
        return []
    job, here = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURMD_NODENAME")
    if not job or not here or not shutil.which("srun"):
        raise InputError(
            f"nodes: {nodes} nodes train together only within a job of Slurm, which starts their "
            "processes by `srun`: submit the run's jobs with `--profile profiles/slurm`, or set "
            "`nodes: 1` (docs/cluster.md)"
        )
    names = _query("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    of_job = _query("scontrol", "show", "hostnames", names).split()
    others = [name for name in of_job if name != here]
    if len(others) + 1 < nodes:
        raise InputError(
            f"nodes: {nodes} nodes are requested, but Slurm job {job} has {len(others) + 1} "
            f"({names}): remove `nodes` of rule train from `set-resources`, or lower it in the "
            "training's file"
        )
    return others[: nodes - 1]


def resumed_by_first_node() -> Resumable | None:
    """Return the checkpoint that the first node resumes from, in a process of another node.

    Other nodes may see changes of a shared file system late, so they do not look for it.
    """
    given = json.loads(os.environ[OTHER_NODE])
    return Resumable(Path(given["path"]), given["step"]) if given else None


@contextmanager
def started_on(
    nodes: Sequence[str], trainer: pl.Trainer, resume_from: Resumable | None
) -> Iterator[None]:
    """Run this script on other nodes, too, while the block trains.

    What their processes print is printed here. If one of them fails, so that the block waits for it
    in vain, this process ends with code 1.

    Parameters
    ----------
    nodes
        Names of the other nodes (`find_other_nodes`).
    trainer
        Trainer of the block.
    resume_from
        The checkpoint that the training resumes from.
    """
    # Other processes of this node run this, too.
    if not nodes or not trainer.is_global_zero:
        yield
        return
    log.info("starting on %s, too", ", ".join(nodes))
    strategy: Any = trainer.strategy
    process = subprocess.Popen(
        srun_command(nodes),
        env=srun_environment(strategy.cluster_environment.main_port, resume_from),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Signals for this job step are not meant for `srun`, which would kill its processes.
        start_new_session=True,
    )
    over = threading.Event()

    def watch() -> None:
        assert process.stdout
        for line in process.stdout:
            if not REPORTED.match(line):
                sys.stderr.write(line)
        if process.wait() and not over.wait(END_S):
            print(
                f"error: the processes on {', '.join(nodes)} failed, and this one waits for them "
                "in vain: exiting",
                file=sys.stderr,
            )
            strategy.launcher.kill(signal.SIGKILL)
            os._exit(1)

    watcher = threading.Thread(target=watch, name="other-nodes", daemon=True)
    watcher.start()
    try:
        yield
    except Interrupted:  # All processes are.
        raise
    except BaseException:
        process.terminate()
        raise
    finally:
        over.set()
        watcher.join(END_S)
        process.kill()


def srun_command(nodes: Sequence[str]) -> list[str]:
    """Return the command that runs this process's script on `nodes`, once on each."""
    count = len(nodes)
    where = [f"--nodes={count}", f"--ntasks={count}", f"--nodelist={','.join(nodes)}"]
    script = [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    return ["srun", *where, *OPTIONS, "sh", "-c", START, "sh", *script]


def srun_environment(port: int, resume_from: Resumable | None) -> dict[str, str]:
    """Return the environment of `srun_command`.

    Parameters
    ----------
    port
        Port of this node at which the processes meet.
    resume_from
        The checkpoint that the training resumes from.
    """
    given = {"path": str(resume_from.path), "step": resume_from.step} if resume_from else None
    of_slurm = ("SLURM_", "SRUN_", "SBATCH_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT_VARIABLES or not name.startswith(of_slurm)
    }
    return kept | {"MASTER_PORT": str(port), OTHER_NODE: json.dumps(given)}


def _query(*command: str) -> str:
    """Return the output of a command of Slurm."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S, check=True)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"Slurm does not answer: {error}") from error
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"Slurm does not answer: {error}: {error.stderr.strip()}") from error
    return done.stdout
