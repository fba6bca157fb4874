"""Which processes run on this machine, also in other containers."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

# The pid namespace in which all processes of a machine are visible (linux/proc_ns.h).
INITIAL_NAMESPACE = "pid:[4026531836]"


@cache
def machine_id() -> str:
    """Boot id and pid namespace of this process; on systems without /proc, the host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def is_same_boot(machine: str) -> bool:
    """Whether a `machine_id` is of this machine since it was booted, in any container."""
    boot, _, namespace = machine_id().partition(" ")
    return bool(namespace) and machine.partition(" ")[0] == boot


@cache
def sees_all_processes() -> bool:
    """Whether /proc shows the processes of all containers and users of this machine."""
    try:
        return machine_id().endswith(INITIAL_NAMESPACE) and start_time(1) is not None
    except PermissionError:
        return False


def is_running_in_container(pid: int, started: int | None) -> bool | None:
    """Whether a process of any container runs; None if it has no start time to know it by."""
    if started is None:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        if start_time(int(folder.name)) != started:
            continue
        try:
            status = (folder / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # Its numbers in all namespaces, its own last (proc_pid_status(5)).
        (numbers,) = [line.split()[1:] for line in status.splitlines() if line[:6] == "NSpid:"]
        if int(numbers[-1]) == pid:
            return True
    return False


def is_running(pid: int, started: int | None) -> bool:
    """Whether a process of this pid namespace runs that started at a time; see `start_time`."""
    if started is not None:
        return start_time(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def start_time(pid: int) -> int | None:
    """Start time of a process of this machine, in ticks since boot.

    None if the process has ended, and for all processes on systems without /proc.
    """
    try:
        # After the name in brackets, which may hold anything: state, …, starttime (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
