"""The status of a run: the progress of each stage and crop, and an estimate of the time left.

Everything is read from files that Snakemake and the jobs write (Snakemake's log, the jobs' logs and
benchmarks, and the results), so any terminal that can read the folder can show the status.
"""

from __future__ import annotations

import csv
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.run.locking.locks import TIMEOUT_S, is_alive, is_released, read_holder
from cellmap_pipeline.run.progress import Progress, read_progress
from cellmap_pipeline.run.restart import RUN_LOCK
from cellmap_pipeline.run.snakemake.log import LoggedJob, RunLog, read_logs

State = Literal["done", "running", "queued", "waiting", "failed", "stopped"]
# Rules that only collect or link the results of others.
UNLISTED_RULES = re.compile(r"all|at_hand|crop\d+|check|fetch|calibrate")


class TimeLeft(NamedTuple):
    """An estimate of the time left.

    Attributes
    ----------
    seconds
        Time left of the jobs with a known duration, s.
    complete
        Whether the duration of all jobs is known.
    """

    seconds: float
    complete: bool


@dataclass
class Job:
    """A job of the run, or one of an earlier run whose result exists.

    Attributes
    ----------
    rule
        Its rule.
    wildcards
        Values by wildcard.
    state
        Its state; `queued` on a cluster, `stopped` if the run ended before it.
    begun
        When it was started or submitted, if it was.
    progress
        Its progress bar, while it runs.
    seconds_left
        Estimated remaining run time, s; None if unknown.
    """

    rule: str
    wildcards: dict[str, str]
    state: State
    begun: datetime | None = None
    progress: Progress | None = None
    seconds_left: float | None = None

    @property
    def crop(self) -> int | None:
        """Number of its crop; None if it does not process a single crop."""
        return int(self.wildcards["crop"]) if "crop" in self.wildcards else None

    @property
    def is_open(self) -> bool:
        """Whether this run has yet to finish it."""
        return self.state in ("running", "queued", "waiting")


@dataclass
class Status:
    """The status of the newest run in a folder.

    Attributes
    ----------
    alive
        Whether the run is still active, as far as this machine can tell.
    begun
        When its first job was started.
    jobs
        Its jobs, by stage in the order in which Snakemake lists the rules.
    """

    alive: bool
    begun: datetime
    jobs: list[Job] = field(default_factory=list)

    def by_stage(self) -> dict[str, list[Job]]:
        """Group jobs by rule; those of all figures form one stage."""
        stages: dict[str, list[Job]] = {}
        for job in self.jobs:
            stage = "figures" if job.rule.startswith("plot_") else job.rule
            stages.setdefault(stage, []).append(job)
        return stages

    def by_crop(self) -> dict[int, list[Job]]:
        """Group the jobs that process a single crop by its number."""
        crops: dict[int, list[Job]] = {}
        for job in self.jobs:
            if job.crop is not None:
                crops.setdefault(job.crop, []).append(job)
        return crops

    @property
    def time_left(self) -> TimeLeft:
        """Time until the run ends, if stages follow one another."""
        stages = [stage_time_left(jobs) for jobs in self.by_stage().values()]
        return TimeLeft(sum(s.seconds for s in stages), all(s.complete for s in stages))


def read_status(plan: Plan, folder: Path = Path()) -> Status | None:
    """Read the status of the newest run in a folder; return None if there was no run."""
    logs = read_logs(folder)
    if not logs:
        return None
    run = logs[0]
    holder = read_holder(folder / RUN_LOCK)
    alive = (
        holder is not None and _has_heartbeat(folder / RUN_LOCK) and is_alive(holder) is not False
    )
    begun = min((job.begun for job in run.jobs), default=datetime.now())
    jobs = [
        _started_job(job, folder, alive)
        for job in run.jobs
        if not UNLISTED_RULES.fullmatch(job.rule)
    ]
    for rule, count in run.planned.items():
        if UNLISTED_RULES.fullmatch(rule):
            continue
        of_rule = [job for job in jobs if job.rule == rule]
        jobs += _other_jobs(rule, max(0, count - len(of_rule)), of_rule, plan, folder, alive)
    order = list(run.planned)
    jobs.sort(key=lambda job: order.index(job.rule) if job.rule in order else len(order))
    pace = _seconds_per_work(logs, plan, folder)
    for job in jobs:
        if job.is_open:
            job.seconds_left = _estimate_seconds_left(job, pace, plan)
    return Status(alive, begun, jobs)


def stage_time_left(jobs: Sequence[Job]) -> TimeLeft:
    """Estimate when the open jobs of a stage end, if as many keep running at once as now."""
    jobs = [job for job in jobs if job.is_open]
    known = [job.seconds_left for job in jobs if job.seconds_left is not None]
    n_running = max(1, sum(job.state == "running" for job in jobs))
    seconds = max([*known, sum(known) / n_running])
    return TimeLeft(seconds, len(known) == len(jobs))


def _started_job(logged: LoggedJob, folder: Path, alive: bool) -> Job:
    job = Job(logged.rule, logged.wildcards, "done", logged.begun)
    log = folder / logged.log if logged.log else None
    lock = log.with_suffix(".owner") if log else None
    if logged.failed:
        job.state = "failed"
    elif logged.ended or (lock and _is_released_since(lock, logged.begun)):
        job.state = "done"
    elif log and lock and _has_heartbeat(lock):
        job.state = "running"
        job.progress = read_progress(log)
    elif alive:
        # Local jobs have no lock file while they start, and quick ones have none at all.
        job.state = "running" if logged.local else "queued"
    else:
        job.state = "stopped"
    return job


def _is_released_since(lock: Path, begun: datetime) -> bool:
    """Whether a job released its lock; of a group, Snakemake only logs when all jobs ended."""
    return is_released(lock) and lock.stat().st_mtime >= begun.timestamp()


def _has_heartbeat(lock: Path) -> bool:
    """Whether the holder of a lock has updated it recently."""
    holder = read_holder(lock)
    try:
        last_heartbeat = lock.stat().st_mtime
    except FileNotFoundError:
        return False
    return holder is not None and not holder.ended and time.time() - last_heartbeat < TIMEOUT_S


def _other_jobs(
    rule: str, count: int, started: list[Job], plan: Plan, folder: Path, alive: bool
) -> list[Job]:
    """Jobs of a rule that this run has not started: waiting ones, and those of earlier runs.

    Parameters
    ----------
    rule
        Name of the rule.
    count
        Number of jobs that this run has planned but not started.
    started
        Jobs of the rule that this run has started.
    plan
        Plan of the run.
    folder
        Folder of the run.
    alive
        Whether the run is still active.
    """
    state: State = "waiting" if alive else "stopped"
    names = {tuple(job.wildcards.values()) for job in started}
    others = [w for w in _possible_wildcards(rule, plan) if tuple(w.values()) not in names]
    existing = [w for w in others if (folder / _result_path(rule, w, plan)).exists()]
    # Which jobs are planned is not logged: those without a result come first.
    waiting = ([w for w in others if w not in existing] + existing)[:count]
    waiting += [{}] * (count - len(waiting))
    earlier = [w for w in existing if w not in waiting]
    return [Job(rule, w, "done") for w in earlier] + [Job(rule, w, state) for w in waiting]


def _possible_wildcards(rule: str, plan: Plan) -> list[dict[str, str]]:
    """List the wildcards of all jobs that a stage may have; only for stages by crop."""
    datasets = plan.dataset_by_crop()
    if rule == "predict":
        return [
            {"training": name, "dataset": datasets[crop], "crop": str(crop)}
            for name in plan.active_trainings()
            for crop in plan.rows_by_crop(name)
        ]
    if rule == "segment":
        return [
            {"dataset": row.dataset, "crop": str(row.crop), "label": row.label}
            for row in plan.rows_to_segment()
        ]
    return []


def _result_path(rule: str, wildcards: dict[str, str], plan: Plan) -> Path:
    find = plan.paths.predictions if rule == "predict" else plan.paths.segmentation
    return find(**wildcards)


def _work(rule: str, wildcards: dict[str, str], plan: Plan) -> float:
    """Measure of a job's work.

    Returns
    -------
    float
        Voxels at the resolution of the network or of the label; 1 for jobs without a crop.
    """
    if "crop" not in wildcards:
        return 1.0
    rows = [row for row in plan.crop_labels if row.crop == int(wildcards["crop"])]
    rows = [row for row in rows if row.label == wildcards.get("label", row.label)]
    if not rows:
        return 1.0
    grid = max((row.grid for row in rows), key=lambda grid: grid.size)
    training = plan.trainings.get(wildcards.get("training", ""))
    if training:
        grid = grid.at(training.voxel_size)
    return grid.size / int(wildcards.get("parts", 1))


def _seconds_per_work(logs: Iterable[RunLog], plan: Plan, folder: Path) -> dict[str, float]:
    """By rule, seconds per unit of `_work`, from completed jobs of this run and earlier ones."""
    seconds: dict[str, float] = defaultdict(float)
    work: dict[str, float] = defaultdict(float)
    seen: set[tuple[str, ...]] = set()
    for job in (job for log in logs for job in log.jobs):
        if job.ended and not job.failed and job.key not in seen:
            seen.add(job.key)
            seconds[job.rule] += _duration(job, folder)
            work[job.rule] += _work(job.rule, job.wildcards, plan)
    return {rule: seconds[rule] / work[rule] for rule in work}


def _duration(job: LoggedJob, folder: Path) -> float:
    """Duration of a completed job, s; without its time in the queue if it has a benchmark."""
    assert job.ended
    path = folder / job.benchmark if job.benchmark else None
    if path and path.is_file():
        with path.open() as file:
            for row in csv.DictReader(file, delimiter="\t"):
                return float(row["s"])
    return (job.ended - job.begun).total_seconds()


def _estimate_seconds_left(job: Job, pace: dict[str, float], plan: Plan) -> float | None:
    if job.progress and job.progress.left is not None:
        return job.progress.left
    if job.rule not in pace:
        return None
    elapsed = 0.0
    if job.state == "running" and job.begun:
        elapsed = (datetime.now() - job.begun).total_seconds()
    return max(0.0, pace[job.rule] * _work(job.rule, job.wildcards, plan) - elapsed)
