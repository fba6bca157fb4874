"""Start of a run: one at a time in a folder, with the same command after any interruption.

`cellmap-pipeline run ARGUMENTS` becomes `snakemake ARGUMENTS` after cleaning up what an interrupted
run left behind: its lock, its jobs that still run, and outputs that Snakemake did not record.
"""

from __future__ import annotations

import argparse
import atexit
import os
import re
import shutil
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cellmap_pipeline.errors import InputError, gathered, raise_all
from cellmap_pipeline.io.files import PARTIAL_SUFFIX, replace_folder
from cellmap_pipeline.io.yaml_files import read_yaml
from cellmap_pipeline.run.locking.locks import (
    POLL_S,
    LockHolder,
    LockWatch,
    is_below,
    is_of_run,
    read_holder,
    remove_dead,
    start_heartbeat,
    this_process,
    try_acquire,
    update,
)

SNAKEMAKE_FOLDER = Path(".snakemake")
RUN_LOCK = SNAKEMAKE_FOLDER / "run.owner"
# Name of a run's Slurm jobs, set by Snakemake's plugin.
RUN_NAME = re.compile(r"(.*_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SlurmJob(NamedTuple):
    """A job of a Snakemake run in Slurm's queue.

    Attributes
    ----------
    number
        Slurm's job id.
    state
        Slurm's state of the job.
    description
        Comment of the job, which names its rule and wildcards.
    """

    number: str
    state: str
    description: str


def start(arguments: Sequence[str]) -> None:
    """Replace this process by `snakemake` with `arguments`, as the only run in its folder.

    Raises
    ------
    InputError
        Another run is active in the folder, or a file of `--configfile` is not a configuration.
    SystemExit
        Snakemake cannot remove the lock of a dead run; it has printed the reason.
    """
    snakemake = [sys.executable, "-m", "snakemake"]
    options = _options(arguments)
    problems: list[str] = []
    # Snakemake reads these files before the Snakefile can check them.
    for path in options.configfile:
        with gathered(problems):
            read_yaml(path)
    raise_all(problems)
    if not _is_dry_run(arguments):
        folder = options.directory
        watches: dict[Path, LockWatch] = {}
        stop, previous = _acquire_run_lock(folder, watches)
        if previous and previous.logs:
            _clean_up(folder, folder / previous.logs, watches)
        if any((folder / SNAKEMAKE_FOLDER / "locks").glob("*.lock")):
            unlocked = subprocess.run([*snakemake, "--unlock", *arguments])
            if unlocked.returncode:
                sys.exit(unlocked.returncode)
        # Snakemake, which replaces this process, continues the heartbeat in `keep_run_lock`.
        stop()
    sys.stdout.flush()
    os.execv(sys.executable, [*snakemake, *arguments])


def keep_run_lock(logs: Path) -> None:
    """Hold the folder's run lock until this process ends, if `start` acquired it for it.

    Called by the Snakemake process that replaced the one of `start`.
    """
    holder = read_holder(RUN_LOCK)
    if holder and (holder.pid, holder.machine) == (os.getpid(), this_process().machine):
        _hold_until_exit(replace(holder, logs=str(logs)))


def acquire_run_lock(logs: Path) -> None:
    """Hold the folder's run lock until this process ends, unless another process does.

    Called by a Snakemake process that was not started by `start` and has Snakemake's own lock.
    """
    watch = LockWatch(RUN_LOCK)
    if watch.living_holder() is None:
        if watch.holder:
            remove_dead(RUN_LOCK, watch.holder)
        holder = replace(this_process(), logs=str(logs))
        if try_acquire(RUN_LOCK, holder):
            _hold_until_exit(holder)


def remove_recorded_locks(logs: Path) -> None:
    """Remove the released lock files of jobs whose outputs Snakemake has recorded."""
    for path in logs.rglob("*.owner"):
        holder = read_holder(path)
        if holder is None or not holder.ended or not is_of_run(holder, path, Path()):
            continue
        if not _unrecorded_outputs(Path(), path, holder):
            path.unlink(missing_ok=True)


def _is_dry_run(arguments: Sequence[str]) -> bool:
    return any(re.fullmatch(r"--dry-?run|-[a-zA-Z]*n[a-zA-Z]*", a) for a in arguments)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-d", "--directory", type=Path, default=Path())
    parser.add_argument("--configfile", "--configfiles", type=Path, nargs="+", default=[])
    return parser.parse_known_args(list(arguments))[0]


def _acquire_run_lock(
    folder: Path, watches: dict[Path, LockWatch]
) -> tuple[Callable[[], None], LockHolder | None]:
    """Acquire a folder's run lock.

    Parameters
    ----------
    folder
        The folder.
    watches
        Gets a watch of each job's lock of a run that may have died, so that the jobs' heartbeats
        are waited for at the same time as the run's.

    Returns
    -------
    A function that stops the lock's heartbeat, and the holder of the previous, dead run.

    Raises
    ------
    InputError
        Another run is active in the folder.
    """
    path = folder / RUN_LOCK
    holder, previous, watch, is_announced = this_process(), None, LockWatch(path), False
    while not try_acquire(path, holder):
        other = watch.living_holder()
        if other is None:
            if watch.holder:
                previous = watch.holder
                remove_dead(path, previous)
                # If this run dies during the cleanup, the next one still finds the old jobs.
                holder = replace(holder, logs=previous.logs)
        elif watch.confirmed:
            raise InputError(
                f"another run is active in this folder: {other}. Wait until it ends, or stop it "
                f"there with Ctrl-C or `kill {other.pid}`, which lets running jobs finish first"
            )
        else:
            if not is_announced:
                _print(f"waiting for the end, or a heartbeat, of {watch}")
                is_announced = True
            if other.logs:
                _watch_jobs(folder / other.logs, watches)
            time.sleep(POLL_S)
    return start_heartbeat(path, holder), previous


def _hold_until_exit(holder: LockHolder) -> None:
    update(RUN_LOCK, holder)
    stop = start_heartbeat(RUN_LOCK, holder)

    def release() -> None:
        stop()
        update(RUN_LOCK, replace(holder, ended=True))

    atexit.register(release)


def _watch_jobs(logs: Path, watches: dict[Path, LockWatch]) -> dict[Path, LockHolder | None]:
    """Look at the locks of a run's jobs; return the holders that are not known to be dead."""
    for path in logs.rglob("*.owner"):
        watches.setdefault(path, LockWatch(path))
    return {path: watch.living_holder() for path, watch in watches.items()}


def _clean_up(folder: Path, logs: Path, watches: dict[Path, LockWatch]) -> None:
    """Wait for the jobs that a dead run left running, and set aside what it did not record."""
    queue = _slurm_jobs(folder)
    waiting = [job.number for job in queue or [] if job.state == "PENDING"]
    if waiting:
        _print(f"removing {len(waiting)} jobs of the previous run from Slurm's queue")
        subprocess.run(["scancel", "--state=PENDING", *waiting])
    printed: list[str] = []
    while True:
        if queue is not None:
            queue = _slurm_jobs(folder)
        running = queue or []
        lines = [f"Slurm job {job.number}: {job.description}" for job in running]
        for path, holder in _watch_jobs(logs, watches).items():
            known = holder and any(job.number == holder.slurm_job for job in running)
            if holder and not known and is_of_run(holder, path, folder):
                lines.append(f"{path.relative_to(logs).with_suffix('')}: {watches[path]}")
        if not lines:
            break
        if lines != printed:
            printed = lines
            _print(
                "waiting for jobs of the previous run; the work of those that run is kept, even if "
                "you end them with `scancel` or `kill`:\n  " + "\n  ".join(lines)
            )
        time.sleep(POLL_S)
    for path in logs.rglob("*.owner"):
        holder = read_holder(path)
        if holder and is_of_run(holder, path, folder):
            for output in _unrecorded_outputs(folder, path, holder):
                _set_aside(output)
            path.unlink(missing_ok=True)
    if is_below(logs, folder):  # Elsewhere, they may be of another run.
        for tmp in logs.rglob("*.owner.*"):  # Temporary files of killed processes.
            tmp.unlink(missing_ok=True)


def _set_aside(output: Path) -> None:
    """Remove an output for which Snakemake has not recorded the settings that it was made with.

    A folder is moved to where the next job looks for finished work of its own settings.
    """
    if output.is_dir() and not output.is_symlink():
        replace_folder(output, output.with_name(output.name + PARTIAL_SUFFIX))
    else:
        output.unlink()


def _unrecorded_outputs(folder: Path, path: Path, holder: LockHolder) -> list[Path]:
    """List the outputs that the holder of the lock `path` made and Snakemake did not record."""
    # Without any records, the results were made in another folder.
    if not any((folder / SNAKEMAKE_FOLDER / "metadata").glob("*")):
        return []
    since = path.stat().st_mtime_ns
    unrecorded = []
    for output in holder.outputs:
        record = folder / SNAKEMAKE_FOLDER / "metadata" / _record_name(output)
        mark = folder / SNAKEMAKE_FOLDER / "incomplete" / _record_name(output)
        recorded = record.is_file() and record.stat().st_mtime_ns >= since and not mark.exists()
        path = folder / output
        if not recorded and (path.is_symlink() or path.exists()):
            unrecorded.append(path)
    return unrecorded


def _record_name(output: str) -> Path:
    """Name of the file about an output in Snakemake's folders of records."""
    name = urlsafe_b64encode(output.encode()).decode()
    pieces = [name[i : i + 254] for i in range(0, len(name), 254)]
    return Path(*("@" + piece for piece in pieces[:-1]), pieces[-1])


def _slurm_jobs(folder: Path) -> list[SlurmJob] | None:
    """List the pending and running Slurm jobs of a folder's runs; None without Slurm."""
    if shutil.which("squeue") is None:
        return None
    # Of a job array's tasks, %i would not be the number that a job knows itself by.
    command = ["squeue", "--me", "--noheader", "--format=%A|%T|%j|%k|%Z"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        _print(f"(Slurm does not answer: {done.stderr.splitlines()[0]})")
        return None
    jobs = []
    for line in done.stdout.splitlines():
        number, state, name, comment, directory = line.split("|", 4)
        is_ours = RUN_NAME.fullmatch(name) and Path(directory) == folder.resolve()
        if is_ours and number != os.environ.get("SLURM_JOB_ID"):
            jobs.append(SlurmJob(number, state, comment))
    return jobs


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
