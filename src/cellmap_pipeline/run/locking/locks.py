"""Lock files: one job at a time makes a result, even if a job outlives the run that started it.

A lock file names the process that holds it. It is created with `link`, which succeeds for only one
process, on NFS too, and its holder regularly updates the file's modification time (heartbeat). This
needs no locks of the file system, and no synchronized clocks: a process that waits only observes
whether the time changes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cellmap_pipeline.io.files import write_json
from cellmap_pipeline.run.locking.processes import (
    is_running,
    is_running_in_container,
    is_same_boot,
    machine_id,
    sees_all_processes,
    start_time,
)

log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
# A holder on another machine counts as dead after this time without a heartbeat. NFS may show a
# file's time a minute late.
TIMEOUT_S = 180.0
# The same for a holder in another container of this machine, which mostly shares its mounts.
SAME_MACHINE_TIMEOUT_S = 120.0
POLL_S = 2.0
# EX_TEMPFAIL of sysexits.h, as for an interrupted training.
LOCK_LOST_EXIT_CODE = 75
# Slurm's job states in which processes run, and in which they are suspended.
RUNNING_STATES = {"RUNNING", "COMPLETING", "SIGNALING", "RESIZING"}
SUSPENDED_STATES = {"SUSPENDED", "STOPPED"}


@dataclass(frozen=True)
class LockHolder:
    """The content of a lock file: a process, and what it makes.

    Attributes
    ----------
    host, pid, slurm_job, since
        For messages; `slurm_job` is None outside of Slurm.
    machine
        Boot id and pid namespace. They distinguish machines with the same name, a machine before
        and after a reboot, and containers.
    started
        Start time of the process, which distinguishes it from others with the same number.
    token
        Unique to this acquisition of the lock.
    folder
        Working directory of the process; for a job, that of its run.
    outputs
        Paths that the process makes.
    logs
        For a run, the folder with the logs and lock files of its jobs.
    ended
        Whether the process finished its work and released the lock.
    """

    host: str
    pid: int
    slurm_job: str | None
    since: str
    machine: str
    started: int | None
    token: str
    folder: str | None = None
    outputs: tuple[str, ...] = ()
    logs: str | None = None
    ended: bool = False

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


def this_process(outputs: Sequence[str] = ()) -> LockHolder:
    """Describe this process as the holder of a new lock."""
    return LockHolder(
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        machine=machine_id(),
        started=start_time(os.getpid()),
        token=uuid.uuid4().hex,
        folder=os.getcwd(),
        outputs=tuple(outputs),
    )


def read_holder(path: Path) -> LockHolder | None:
    """Read a lock file; return None if there is none.

    An unreadable file was left by a crashed machine; it counts as released.
    """
    for _ in range(10):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return LockHolder(**values | {"outputs": tuple(values["outputs"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            # On a file system without links, it may also be incomplete.
            time.sleep(0.1)
    return LockHolder("?", 0, None, "?", "", None, "", ended=True)


def is_of_run(holder: LockHolder, path: Path, folder: Path) -> bool:
    """Whether the job that holds the lock `path` is of a run in `folder`.

    Several folders may name the same `output`. Locks below the run's own folder are its own, even
    if it was moved or copied. So are those whose folder no longer exists.
    """
    if holder.folder is None or is_below(path, folder):
        return True
    try:
        return os.path.samefile(holder.folder, folder)
    except FileNotFoundError:
        return True
    except OSError:
        # It is another user's.
        return False


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path lies below a folder, after following links."""
    return path.resolve().is_relative_to(folder.resolve())


def is_released(path: Path) -> bool:
    """Whether a lock file exists whose holder finished its work."""
    holder = read_holder(path)
    return holder is not None and holder.ended


def is_alive(holder: LockHolder) -> bool | None:
    """Whether a lock holder still runs; None if only its heartbeat can tell."""
    if holder.machine == machine_id():
        return is_running(holder.pid, holder.started)
    if is_same_boot(holder.machine) and sees_all_processes():
        return is_running_in_container(holder.pid, holder.started)
    if holder.slurm_job is None:
        return None
    # If Slurm requeued the job, the process that holds the lock is gone: this one replaced it.
    return holder.slurm_job != os.environ.get("SLURM_JOB_ID") and _is_slurm_job_alive(
        holder.slurm_job
    )


def _is_slurm_job_alive(job: str) -> bool | None:
    """Whether a Slurm job has processes; None if it may have some, or Slurm does not answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--format=%T", "--states=all", f"--jobs={job}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        return False if "Invalid job id" in done.stderr else None
    states = set(done.stdout.split())
    if states & SUSPENDED_STATES:
        return True
    return None if states & RUNNING_STATES else False


class LockWatch:
    """Repeated observation of a lock file.

    Attributes
    ----------
    path
        The lock file.
    holder
        The holder seen last.
    confirmed
        Whether that holder is known to be alive, from its process or a heartbeat.
    age_s
        Age of that holder's heartbeat when it was seen first, by the clock of this machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holder: LockHolder | None = None
        self.confirmed = False
        self.age_s = 0.0
        self._heartbeat: tuple[str, int] | None = None
        self._heartbeat_seen = 0.0

    def living_holder(self) -> LockHolder | None:
        """Return the holder unless it is dead or has released the lock."""
        self.holder = holder = read_holder(self.path)
        try:
            modified = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if holder is None or holder.ended:
            return None
        alive = is_alive(holder)
        if alive is not None:
            self.confirmed = alive
            return holder if alive else None
        if self._heartbeat is None or self._heartbeat[0] != holder.token:
            self.age_s = max(0.0, time.time() - modified / 1e9)
        if (holder.token, modified) != self._heartbeat:
            self.confirmed = self._heartbeat is not None and self._heartbeat[0] == holder.token
            self._heartbeat, self._heartbeat_seen = (holder.token, modified), time.monotonic()
        return holder if time.monotonic() - self._heartbeat_seen < self.timeout_s else None

    @property
    def timeout_s(self) -> float:
        """Time without a heartbeat after which the holder counts as dead."""
        is_near = self.holder is not None and is_same_boot(self.holder.machine)
        return SAME_MACHINE_TIMEOUT_S if is_near else TIMEOUT_S

    def __str__(self) -> str:
        """The holder, and what is known of it."""
        if self.confirmed:
            return str(self.holder)
        return (
            f"{self.holder}: it may have ended. Its last heartbeat was {self.age_s:.0f} s old, and "
            f"it counts as dead after {self.timeout_s:.0f} s without another"
        )


def try_acquire(path: Path, holder: LockHolder) -> bool:
    """Create a lock file unless it exists; return whether that succeeded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f"{path.name}.{holder.token}")
    try:
        write_json(tmp, asdict(holder))
        _link(tmp, path)
    except FileExistsError:
        return False
    finally:
        tmp.unlink(missing_ok=True)
    return True


def acquire(path: Path, holder: LockHolder) -> None:
    """Create a lock file, after waiting for any other living holder."""
    watch, logged = LockWatch(path), 0.0
    while not try_acquire(path, holder):
        other = watch.living_holder()
        if other is None:
            if watch.holder:
                remove_dead(path, watch.holder)
            continue
        if time.monotonic() - logged > 60 or not logged:
            logged = time.monotonic()
            log.info("waiting for another job that makes the same results: %s (%s)", watch, path)
        time.sleep(POLL_S)


@contextmanager
def hold(path: Path, outputs: Sequence[str] = ()) -> Iterator[None]:
    """Hold the lock `path` while the block runs, after waiting for any other living holder.

    A released lock file remains, as a record that the block succeeded. If the block fails, the
    file is removed.
    """
    holder = this_process(outputs)
    acquire(path, holder)
    stop = start_heartbeat(path, holder)
    try:
        yield
    except BaseException:
        stop()
        remove_dead(path, holder)
        raise
    stop()
    update(path, replace(holder, ended=True))


def update(path: Path, holder: LockHolder) -> None:
    """Replace the content of a lock file."""
    # A unique name: a suspended holder may wake up while its successor writes.
    write_json(path, asdict(holder), suffix=f".{holder.token}")


def remove_dead(path: Path, dead: LockHolder) -> None:
    """Remove the lock file of a dead holder, unless another process has acquired the lock."""
    # A second lock guards the removal; if its holder dies, it is cleaned up the same way.
    guard = path.with_name(f"{path.name}.{dead.token}.dead")
    if try_acquire(guard, this_process()):
        found = read_holder(path)
        if found and found.token == dead.token:
            path.unlink(missing_ok=True)
        guard.unlink()
    elif (watch := LockWatch(guard)).living_holder() is None and watch.holder:
        remove_dead(guard, watch.holder)


def start_heartbeat(path: Path, holder: LockHolder) -> Callable[[], None]:
    """Update the lock file's time in a thread, until the returned function is called.

    The process exits at once if it was suspended for so long that another one took the lock over.
    """
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(HEARTBEAT_S):
            try:
                found = _renew(path, holder)
            except OSError as error:  # The file server may be unavailable for a while.
                log.warning("%s: %s", path, error)
                continue
            if found and found.token != holder.token:
                print(f"error: {path} is now held by {found}: exiting", file=sys.stderr, flush=True)
                os._exit(LOCK_LOST_EXIT_CODE)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join()

    return stop


def _renew(path: Path, holder: LockHolder) -> LockHolder | None:
    """Update a lock file's time, or create it again if it is gone; return who holds it now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        try_acquire(path, holder)
    return read_holder(path)


def _link(tmp: Path, path: Path) -> None:
    try:
        os.link(tmp, path)
    except OSError as error:
        # Over NFS, it may have been linked, although the answer was lost: see open(2), O_EXCL.
        if tmp.stat().st_nlink > 1:
            return
        if isinstance(error, FileExistsError):
            raise
        # The file system has no hard links.
        with path.open("x", encoding="utf-8") as file:
            file.write(tmp.read_text(encoding="utf-8"))
