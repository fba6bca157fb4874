"""A run as it is now: how far each stage and each crop is, and how long it still takes.

All of it comes from what Snakemake and the jobs write: its log, their logs and benchmarks, and the
volumes that are there. So it is for any terminal that sees the folder.
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
from cellmap_pipeline.run.locks import SILENCE, is_ended, lives, read
from cellmap_pipeline.run.progress import Progress, progress_of
from cellmap_pipeline.run.restart import RUN
from cellmap_pipeline.run.snakemake_log import LoggedJob, RunLog, read_logs

State = Literal["done", "running", "queued", "waiting", "failed", "stopped"]
# Rules that only name others, or link what these made.
NAMES = re.compile(r"all|at_hand|crop\d+|check|fetch|calibrate")


class TimeLeft(NamedTuple):
    """Seconds, and whether they are all: of some jobs nothing may be known yet."""

    seconds: float
    complete: bool


@dataclass
class Job:
    """A job of the run, or what one of an earlier run made.

    Attributes
    ----------
    crop
        The crop's number; None where it is not about one.
    left
        Seconds that it still takes by itself; None: nothing is known about it.
    """

    rule: str
    wildcards: dict[str, str]
    state: State
    begun: datetime | None = None
    progress: Progress | None = None
    left: float | None = None

    @property
    def crop(self) -> int | None:
        """The number of the crop that it is about, if any."""
        return int(self.wildcards["crop"]) if "crop" in self.wildcards else None

    @property
    def is_open(self) -> bool:
        """Whether it still has to be done in this run."""
        return self.state in ("running", "queued", "waiting")


@dataclass
class Status:
    """The newest run of a folder: its jobs, by stage in the order in which Snakemake names them.

    Attributes
    ----------
    alive
        It still runs, as far as can be seen from here.
    begun
        When its first job did.
    """

    alive: bool
    begun: datetime
    jobs: list[Job] = field(default_factory=list)

    def by_stage(self) -> dict[str, list[Job]]:
        """Jobs by rule, but those of all figures together."""
        found: dict[str, list[Job]] = {}
        for job in self.jobs:
            stage = "figures" if job.rule.startswith("plot_") else job.rule
            found.setdefault(stage, []).append(job)
        return found

    def by_crop(self) -> dict[int, list[Job]]:
        """Jobs by number of the crop."""
        found: dict[int, list[Job]] = {}
        for job in self.jobs:
            if job.crop is not None:
                found.setdefault(job.crop, []).append(job)
        return found

    @property
    def left(self) -> TimeLeft:
        """Until the run ends, if stage follows upon stage."""
        stages = [time_left(jobs) for jobs in self.by_stage().values()]
        return TimeLeft(sum(s.seconds for s in stages), all(s.complete for s in stages))


def look(plan: Plan, folder: Path = Path()) -> Status | None:
    """What the newest run in a folder is at; None where none was."""
    logs = read_logs(folder)
    if not logs:
        return None
    run = logs[0]
    owner = read(folder / RUN)
    alive = owner is not None and _works(folder / RUN) and lives(owner) is not False
    begun = min((job.begun for job in run.jobs), default=datetime.now())
    jobs = [_begun(job, folder, alive) for job in run.jobs if not NAMES.fullmatch(job.rule)]
    for rule, count in run.planned.items():
        if NAMES.fullmatch(rule):
            continue
        of_rule = [job for job in jobs if job.rule == rule]
        jobs += _not_begun(rule, max(0, count - len(of_rule)), of_rule, plan, folder, alive)
    order = list(run.planned)
    jobs.sort(key=lambda job: order.index(job.rule) if job.rule in order else len(order))
    pace = _paces(logs, plan, folder)
    for job in jobs:
        if job.is_open:
            job.left = _left(job, pace, plan)
    return Status(alive, begun, jobs)


def time_left(jobs: Sequence[Job]) -> TimeLeft:
    """What the open jobs of a stage still take, as many at once as run now."""
    jobs = [job for job in jobs if job.is_open]
    known = [job.left for job in jobs if job.left is not None]
    at_once = max(1, sum(job.state == "running" for job in jobs))
    seconds = max([*known, sum(known) / at_once])
    return TimeLeft(seconds, len(known) == len(jobs))


def _begun(job: LoggedJob, folder: Path, alive: bool) -> Job:
    made = Job(job.rule, job.wildcards, "done", job.begun)
    log = folder / job.log if job.log else None
    owner = log.with_suffix(".owner") if log else None
    if job.failed:
        made.state = "failed"
    elif job.ended or (owner and _is_ended(owner, job.begun)):
        made.state = "done"
    elif log and owner and _works(owner):
        made.state = "running"
        made.progress = progress_of(log)
    elif alive:
        # What runs here has no owner while it starts, or where it is a matter of seconds.
        made.state = "running" if job.local else "queued"
    else:
        made.state = "stopped"
    return made


def _is_ended(path: Path, begun: datetime) -> bool:
    """Whether a job of a group has ended, of which Snakemake sees only the end of all."""
    return is_ended(path) and path.stat().st_mtime >= begun.timestamp()


def _works(path: Path) -> bool:
    """Whether an owner gives signs of life."""
    owner = read(path)
    try:
        heard = path.stat().st_mtime
    except FileNotFoundError:
        return False
    return owner is not None and not owner.ended and time.time() - heard < SILENCE


def _not_begun(
    rule: str, count: int, begun: list[Job], plan: Plan, folder: Path, alive: bool
) -> list[Job]:
    """Jobs of a rule that wait, and what earlier runs made of the same stage."""
    state: State = "waiting" if alive else "stopped"
    names = {tuple(job.wildcards.values()) for job in begun}
    others = [w for w in _planned(rule, plan) if tuple(w.values()) not in names]
    made = [w for w in others if (folder / _product(rule, w, plan)).exists()]
    # What is there and is made again comes last.
    waiting = ([w for w in others if w not in made] + made)[:count]
    waiting += [{}] * (count - len(waiting))
    earlier = [w for w in made if w not in waiting]
    return [Job(rule, w, "done") for w in earlier] + [Job(rule, w, state) for w in waiting]


def _planned(rule: str, plan: Plan) -> list[dict[str, str]]:
    """The wildcards of all jobs that a stage may have."""
    datasets = plan.dataset_of()
    if rule == "predict":
        return [
            {"training": name, "dataset": datasets[crop], "crop": str(crop)}
            for name in plan.used()
            for crop in plan.predicted(name)
        ]
    if rule == "segment":
        return [
            {"dataset": row.dataset, "crop": str(row.crop), "label": row.label}
            for row in plan.segmented()
        ]
    return []


def _product(rule: str, wildcards: dict[str, str], plan: Plan) -> Path:
    if rule == "predict":
        path = "{training}/predictions/{dataset}/crop{crop}"
    else:
        path = "segmentations/{dataset}/crop{crop}/{label}"
    return plan.output / path.format(**wildcards)


def _work(rule: str, wildcards: dict[str, str], plan: Plan) -> float:
    """What a job's time goes by: voxels, of the network or of the label; else all are alike."""
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


def _paces(logs: Iterable[RunLog], plan: Plan, folder: Path) -> dict[str, float]:
    """By rule, seconds per `_work` of the jobs that are done, of earlier runs, too."""
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
    """Seconds that a job took, if possible without its time in the queue."""
    assert job.ended
    path = folder / job.benchmark if job.benchmark else None
    if path and path.is_file():
        with path.open() as file:
            for row in csv.DictReader(file, delimiter="\t"):
                return float(row["s"])
    return (job.ended - job.begun).total_seconds()


def _left(job: Job, pace: dict[str, float], plan: Plan) -> float | None:
    if job.progress and job.progress.left is not None:
        return job.progress.left
    if job.rule not in pace:
        return None
    spent = 0.0
    if job.state == "running" and job.begun:
        spent = (datetime.now() - job.begun).total_seconds()
    return max(0.0, pace[job.rule] * _work(job.rule, job.wildcards, plan) - spent)
