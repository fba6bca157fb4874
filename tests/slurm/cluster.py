"""A Slurm cluster of two nodes on this machine, in its own folder.

Its daemons are real and use free ports; an installed Slurm cluster is not touched. The GPUs of its
nodes are device files without a function.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# Those of the first node have a model.
MODELS = {"node1": "a100"}
# Nodes have more CPUs and memory than the machine: jobs request much but use little here.
GPUS = {"node1": ("/dev/null", "/dev/zero"), "node2": ("/dev/null",)}
# By the cgroups in it (version 1), Slurm tracks the processes of jobs.
FREEZER = Path("/sys/fs/cgroup/freezer")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
FirstJobId={first_job}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,bf_interval=1
KillWait=15
OverTimeLimit=0
# Tests query jobs that ended long ago.
MinJobAge=86400
ReturnToService=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=256000 \
Gres=gpu:a100:2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 RealMemory=256000 \
Gres=gpu:1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """Return the programs that a cluster needs and that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


class Cluster:
    """A running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen] = []
        for name in ("state", "munge", "bin", *(f"spool-{node}" for node in GPUS)):
            (folder / name).mkdir(mode=0o700)
        settings = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser()}
        self.configuration = folder / "slurm.conf"
        ports = _free_ports(3)
        self.configuration.write_text(
            CONFIGURATION.format(
                folder=folder, ports=ports,
                proctrack="cgroup" if os.access(FREEZER, os.W_OK) else "linuxproc",
                # Cgroups are named by job: clusters that run at the same time share none.
                first_job=1000 * ports[0],
                **settings,
            )
        )  # fmt: skip
        (folder / "gres.conf").write_text(
            "".join(
                f"NodeName={node} Name=gpu {f'Type={MODELS[node]} ' if node in MODELS else ''}"
                f"File={file}\n"
                for node, files in GPUS.items()
                for file in files
            )
        )
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        # Snakemake's plugin removes SLURM_CONF from the environment of `srun`.
        srun = folder / "bin/srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.configuration} exec {shutil.which("srun")} "$@"\n'
        )
        srun.chmod(0o755)
        self.environment = {
            "SLURM_CONF": str(self.configuration),
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Start munge, the controller and the nodes."""
        munge = self.folder / "munge"
        (munge / "key").write_bytes(secrets.token_bytes(64))
        (munge / "key").chmod(0o400)
        self._daemon(
            "munged", "--foreground", "--force", "--num-threads=2", f"--key-file={munge}/key",
            f"--socket={munge}/socket", f"--pid-file={munge}/pid", f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )  # fmt: skip
        self._wait((munge / "socket").exists)
        self._daemon("slurmctld", "-D", "-c")
        for node in GPUS:
            self._daemon("slurmd", "-D", "-N", node)
        idle = ["idle"] * len(GPUS)
        self._wait(
            lambda: self.query("sinfo", "-h", "-p", "main", "-N", "-o", "%T").split() == idle
        )

    def stop(self) -> None:
        """End all jobs and daemons."""
        if len(self._daemons) > 1:
            self.query("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full")
            self.query("scancel", "--user", getpass.getuser())
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        # Jobs are not children of the daemons; their environment identifies them.
        for pid in self._remaining_processes():
            os.kill(pid, signal.SIGKILL)

    def query(self, *command: str) -> str:
        """Return the output of a Slurm command."""
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

    def jobs(self, folder: Path, rule: str = "") -> dict[str, str]:
        """Return the states, by number, of a folder's jobs whose comment contains `rule`."""
        lines = self.query("squeue", "-h", "--states=all", "--sort=i", "-o", "%i|%T|%Z|%k")
        fields = [line.split("|", 3) for line in lines.splitlines()]
        return {f[0]: f[1] for f in fields if f[2] == str(folder) and rule in f[3]}

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("a") as out:
            self._daemons.append(
                subprocess.Popen(
                    command, env=os.environ | self.environment | {"PATH": _path()}, stdout=out,
                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    preexec_fn=_kill_with_parent,
                )
            )  # fmt: skip

    def _wait(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            for daemon in self._daemons:
                assert daemon.poll() is None, f"{daemon.args}: {self._logs()}"
            assert time.monotonic() < end, self._logs()
            time.sleep(0.1)

    def _logs(self) -> str:
        logs = [path for path in self.folder.iterdir() if path.suffix in (".log", ".out")]
        return "\n".join(path.read_text() for path in logs)

    def _remaining_processes(self) -> list[int]:
        mark = f"SLURM_CONF={self.configuration}".encode()
        remaining = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in entry.read_bytes().split(b"\0"):
                    remaining.append(int(entry.parent.name))
            except OSError:  # The process has ended meanwhile, or is another user's.
                continue
        return [pid for pid in remaining if pid != os.getpid()]


def _kill_with_parent() -> None:
    """Let the kernel kill this child process when its parent dies (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"
