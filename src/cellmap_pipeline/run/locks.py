"""One maker of a result at a time, also where a job outlives the run that started it.

An owner is a file that says who makes something. It is made with `link`, which succeeds for one
process alone on NFS, too, and its owner renews its time. No lock of the file system is needed,
and no clock is compared with that of another machine: who waits sees the time change, or not.
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
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

# Seconds between signs of life; after so many without one, an owner elsewhere is taken for dead.
# NFS may show the time of a file a minute late.
BEAT, SILENCE = 15.0, 180.0
# Seconds between looks at an owner that is waited for.
POLL = 2.0
# sysexits.h's EX_TEMPFAIL, as of an interrupted training.
LOST = 75
# Of Slurm's job states, those in which processes run, and those in which they stand still.
RUNNING = {"RUNNING", "COMPLETING", "SIGNALING", "RESIZING"}
STILL = {"SUSPENDED", "STOPPED"}


@dataclass(frozen=True)
class Owner:
    """A process that makes something.

    Attributes
    ----------
    host, pid, slurm_job, since
        For people; `slurm_job` is None outside of Slurm.
    machine
        Tells machines apart that share a name, and a machine before and after a restart.
    started
        Of the process, so that another one of the same number is not taken for it.
    token
        Of this ownership alone.
    outputs
        Paths that it makes.
    logs
        Of a run, the folder of its jobs' logs and owners.
    ended
        It made all of it.
    """

    host: str
    pid: int
    slurm_job: str | None
    since: str
    machine: str
    started: int | None
    token: str
    outputs: tuple[str, ...] = ()
    logs: str | None = None
    ended: bool = False

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


def this_process(outputs: Sequence[str] = ()) -> Owner:
    """An ownership of this process."""
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_job=os.environ.get("SLURM_JOB_ID"),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        machine=_machine(),
        started=_started(os.getpid()),
        token=uuid.uuid4().hex,
        outputs=tuple(outputs),
    )


def read(path: Path) -> Owner | None:
    """The owner that a file names; None where there is no file.

    One that can't be read is left of a machine that died while it wrote, and has ended.
    """
    for _ in range(10):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Owner(**values | {"outputs": tuple(values["outputs"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            # Or it is being written, on a file system without links.
            time.sleep(0.1)
    return Owner("?", 0, None, "?", "", None, "", ended=True)


def is_ended(path: Path) -> bool:
    """Whether a file says that its owner made all that it had to."""
    owner = read(path)
    return owner is not None and owner.ended


def lives(owner: Owner) -> bool | None:
    """Whether an owner still runs; None where only its signs of life can tell."""
    if owner.machine == _machine():
        return _runs(owner.pid, owner.started)
    if owner.slurm_job is None:
        return None
    # A job that Slurm began anew is the only one of its number.
    return owner.slurm_job != os.environ.get("SLURM_JOB_ID") and _slurm_runs(owner.slurm_job)


def _slurm_runs(job: str) -> bool | None:
    """Whether Slurm runs a job; None where its processes may run, or Slurm can't be asked."""
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
    if states & STILL:
        return True
    return None if states & RUNNING else False


class Watch:
    """Looks at a file's owner again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # The one seen last; and whether a sign of life of it was.
        self.owner: Owner | None = None
        self.alive = False
        self._sign: tuple[str, int] | None = None
        self._since = 0.0

    def living(self) -> Owner | None:
        """The owner, as long as it lives or could."""
        self.owner = owner = read(self.path)
        try:
            sign = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if owner is None or owner.ended:
            return None
        known = lives(owner)
        if known is not None:
            self.alive = known
            return owner if known else None
        if (owner.token, sign) != self._sign:
            self.alive = self._sign is not None and self._sign[0] == owner.token
            self._sign, self._since = (owner.token, sign), time.monotonic()
        return owner if time.monotonic() - self._since < SILENCE else None


def claim(path: Path, owner: Owner) -> bool:
    """Become the owner that `path` names, if it names none; whether that succeeded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _write_beside(path, owner)
    try:
        _link(beside, path)
    except FileExistsError:
        return False
    finally:
        beside.unlink(missing_ok=True)
    return True


def bury(path: Path, dead: Owner) -> None:
    """Remove a dead owner, and nobody else who came meanwhile."""
    # Only one at a time removes this owner; who dies at it is removed in the same way.
    here = path.with_name(f"{path.name}.{dead.token}.dead")
    mine = this_process()
    if claim(here, mine):
        found = read(path)
        if found and found.token == dead.token:
            path.unlink(missing_ok=True)
        here.unlink()
    elif (watch := Watch(here)).living() is None and watch.owner:
        bury(here, watch.owner)


def take(path: Path, owner: Owner) -> None:
    """Become the owner that `path` names as soon as there is no other that lives."""
    watch, told = Watch(path), 0.0
    while not claim(path, owner):
        other = watch.living()
        if other is None:
            if watch.owner:
                bury(path, watch.owner)
            continue
        if time.monotonic() - told > 60 or not told:
            told = time.monotonic()
            log.info("waiting for the one who makes the same: %s (%s)", other, path)
        time.sleep(POLL)


@contextmanager
def owned(path: Path, outputs: Sequence[str] = ()) -> Iterator[None]:
    """Be the owner that `path` names; what stays there says that all was made.

    Waits for another owner, as long as it lives. When the work fails, the file is removed.
    """
    owner = this_process(outputs)
    take(path, owner)
    stop = keep_alive(path, owner)
    try:
        yield
    except BaseException:
        stop()
        bury(path, owner)
        raise
    stop()
    change(path, replace(owner, ended=True))


def keep_alive(path: Path, owner: Owner) -> Callable[[], None]:
    """Give signs of life until what is returned is called.

    A process that stood still for so long that another one took over ends here, at once.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            try:
                os.utime(path)
                found = read(path)
                if found is None or found.token == owner.token:
                    continue
            except FileNotFoundError:  # Somebody removed it.
                if claim(path, owner):
                    continue
                found = read(path)
            except OSError as error:  # A file server that is away for a while.
                log.warning("%s: %s", path, error)
                continue
            print(f"error: {path} belongs to {found}: ending", file=sys.stderr, flush=True)
            os._exit(LOST)

    thread = threading.Thread(target=beat, name="owner", daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


def change(path: Path, owner: Owner) -> None:
    """Say something else about an owner."""
    os.replace(_write_beside(path, owner), path)


def _write_beside(path: Path, owner: Owner) -> Path:
    beside = path.with_name(f"{path.name}.{owner.token}")
    beside.write_text(json.dumps(asdict(owner), indent=1) + "\n", encoding="utf-8")
    return beside


def _link(beside: Path, path: Path) -> None:
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # A file system without hard links.
        with path.open("x", encoding="utf-8") as file:
            file.write(beside.read_text(encoding="utf-8"))


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _runs(pid: int, started: int | None) -> bool:
    if started is not None:
        return _started(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _started(pid: int) -> int | None:
    """When a process of this machine began, in ticks since the machine did; None if it is gone.

    None for all processes where there is no /proc.
    """
    try:
        # After the name in brackets, which may hold anything: state, …, starttime (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
