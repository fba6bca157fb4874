"""A run of the workflow: one at a time in a folder, and after any end started again alike.

`cellmap-pipeline run ARGUMENTS` becomes `snakemake ARGUMENTS`, after it has put in order what a
run that died left: its lock, its jobs that still run, and what they made after its death.
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
from cellmap_pipeline.io.yaml_files import read_yaml
from cellmap_pipeline.run.locks import (
    POLL,
    SILENCE,
    Owner,
    Watch,
    bury,
    change,
    claim,
    keep_alive,
    read,
    this_process,
)

# Snakemake's own folder in the working directory, and in it who runs there.
OWN = Path(".snakemake")
RUN = OWN / "run.owner"
# What Snakemake's plugin calls the jobs of a run.
RUN_NAME = re.compile(r"(.*_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SlurmJob(NamedTuple):
    """A job of ours in Slurm's queue."""

    number: str
    state: str
    what: str


def start(arguments: Sequence[str]) -> None:
    """Become `snakemake` with `arguments`, as the only run in its folder. Doesn't return.

    Raises
    ------
    InputError
        Another run lives in the folder; or a file that `--configfile` names is no configuration.
    SystemExit
        The lock of a dead run can't be removed; Snakemake has said why.
    """
    snakemake = [sys.executable, "-m", "snakemake"]
    options = _options(arguments)
    problems: list[str] = []
    # Snakemake reads them before the Snakefile could look at them.
    for path in options.configfile:
        with gathered(problems):
            read_yaml(path)
    raise_all(problems)
    if not _only_plans(arguments):
        folder = options.directory
        stop, before = _alone(folder / RUN)
        if before and before.logs:
            _settle(folder, folder / before.logs)
        if any((folder / OWN / "locks").glob("*.lock")):
            unlocked = subprocess.run([*snakemake, "--unlock", *arguments])
            if unlocked.returncode:
                sys.exit(unlocked.returncode)
        # In Snakemake, which is this very process then, `resume` goes on with it.
        stop()
    sys.stdout.flush()
    os.execv(sys.executable, [*snakemake, *arguments])


def resume(logs: Path) -> None:
    """In a Snakemake that `start` became: stay the folder's run until the end of the process."""
    owner = read(RUN)
    if owner and (owner.pid, owner.machine) == (os.getpid(), this_process().machine):
        _until_the_end(replace(owner, logs=str(logs)))


def begin(logs: Path) -> None:
    """In a Snakemake that was called by itself and has its lock: be the folder's run."""
    watch = Watch(RUN)
    if watch.living() is None:
        if watch.owner:
            bury(RUN, watch.owner)
        owner = replace(this_process(), logs=str(logs))
        if claim(RUN, owner):
            _until_the_end(owner)


def forget_noted(logs: Path) -> None:
    """Remove the notes of jobs that ended, as far as Snakemake knows what they made."""
    for path in logs.rglob("*.owner"):
        owner = read(path)
        if owner and owner.ended and not _unnoted(Path(), path, owner):
            path.unlink(missing_ok=True)


def _only_plans(arguments: Sequence[str]) -> bool:
    """Whether the run is only a plan, which needs no care."""
    return any(re.fullmatch(r"--dry-?run|-[a-zA-Z]*n[a-zA-Z]*", a) for a in arguments)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-d", "--directory", type=Path, default=Path())
    parser.add_argument("--configfile", "--configfiles", type=Path, nargs="+", default=[])
    return parser.parse_known_args(list(arguments))[0]


def _alone(path: Path) -> tuple[Callable[[], None], Owner | None]:
    """Be the run of the folder: what stops the signs of life of it, and the run before."""
    owner, before, watch, told = this_process(), None, Watch(path), False
    while not claim(path, owner):
        other = watch.living()
        if other is None:
            if watch.owner:
                before = watch.owner
                bury(path, before)
                # So that the next one knows of it when this one dies, too.
                owner = replace(owner, logs=before.logs)
        elif watch.alive:
            raise InputError(
                f"a run lives in this folder: {other}. Wait until it ends; or end it there, with "
                f"Ctrl-C or `kill {other.pid}` (which lets the jobs that run finish first)"
            )
        else:
            if not told:
                _say(f"waiting {SILENCE:.0f} s for a sign of life of {other}")
                told = True
            time.sleep(POLL)
    return keep_alive(path, owner), before


def _until_the_end(owner: Owner) -> None:
    change(RUN, owner)
    stop = keep_alive(RUN, owner)

    def end() -> None:
        stop()
        change(RUN, replace(owner, ended=True))

    atexit.register(end)


def _settle(folder: Path, logs: Path) -> None:
    """Let the jobs that a dead run left come to their ends, and keep what they made."""
    queue = _slurm_jobs(folder)
    waiting = [job.number for job in queue or [] if job.state == "PENDING"]
    if waiting:
        _say(f"taking {len(waiting)} jobs of the run before out of Slurm's queue")
        subprocess.run(["scancel", "--state=PENDING", *waiting])
    watches = {path: Watch(path) for path in logs.rglob("*.owner")}
    said: list[str] = []
    while True:
        if queue is not None:
            queue = _slurm_jobs(folder)
        running = queue or []
        lines = [f"Slurm job {job.number}: {job.what}" for job in running]
        for path, watch in watches.items():
            owner = watch.living()
            if owner and not any(job.number == owner.slurm_job for job in running):
                lines.append(f"{path.relative_to(logs).with_suffix('')}: {owner}")
        if not lines:
            break
        if lines != said:
            said = lines
            _say(
                "waiting for jobs of the run before that still run; what they do is kept, also "
                "when you end them with `scancel` or `kill`:\n  " + "\n  ".join(lines)
            )
        time.sleep(POLL)
    for path in logs.rglob("*.owner"):
        if owner := read(path):
            for output in _unnoted(folder, path, owner):
                _put_aside(output)
            path.unlink(missing_ok=True)
    for beside in logs.rglob("*.owner.*"):  # Of processes that were killed between two steps.
        beside.unlink(missing_ok=True)


def _put_aside(output: Path) -> None:
    """Make room for an output of which Snakemake doesn't know with which settings it was made.

    A folder goes where the next job looks for what is done, and takes it if it is of its settings.
    """
    if output.is_dir() and not output.is_symlink():
        beside = output.with_name(output.name + ".partial")
        shutil.rmtree(beside, ignore_errors=True)
        output.rename(beside)
    else:
        output.unlink()


def _unnoted(folder: Path, path: Path, owner: Owner) -> list[Path]:
    """What an owner made without Snakemake having noted it since."""
    if not any((folder / OWN / "metadata").glob("*")):  # Its notes are elsewhere.
        return []
    since = path.stat().st_mtime_ns
    unnoted = []
    for output in owner.outputs:
        note = folder / OWN / "metadata" / _file_of(output)
        mark = folder / OWN / "incomplete" / _file_of(output)
        noted = note.is_file() and note.stat().st_mtime_ns >= since and not mark.exists()
        if not noted and os.path.lexists(folder / output):
            unnoted.append(folder / output)
    return unnoted


def _file_of(output: str) -> Path:
    """The file, in a folder of Snakemake's notes, that is about an output."""
    name = urlsafe_b64encode(output.encode()).decode()
    pieces = [name[i : i + 254] for i in range(0, len(name), 254)]
    return Path(*("@" + piece for piece in pieces[:-1]), pieces[-1])


def _slurm_jobs(folder: Path) -> list[SlurmJob] | None:
    """Jobs of Snakemake runs in a folder that are in Slurm's queue or run; None without Slurm."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--me", "--noheader", "--format=%i|%T|%j|%k|%Z"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        _say(f"(Slurm does not answer: {done.stderr.splitlines()[0]})")
        return None
    jobs = []
    for line in done.stdout.splitlines():
        number, state, name, comment, where = line.split("|", 4)
        ours = RUN_NAME.fullmatch(name) and Path(where) == folder.resolve()
        if ours and number != os.environ.get("SLURM_JOB_ID"):
            jobs.append(SlurmJob(number, state, comment))
    return jobs


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
