"""The jobs of a run and their state, read from Snakemake's log."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path

LOG_FOLDER = Path(".snakemake/log")
# Lines written by `snakemake.logging.DefaultFormatter` of Snakemake 9.
TIME = re.compile(r"\s*\[(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\]")
HEAD = re.compile(r"\s*(local)?(?:rule|checkpoint) (\S+):$")
ENTRY = re.compile(r"\s+([a-z]+): (.*)")
FINISHED = re.compile(r"Finished jobid: (\d+)")
COUNT = re.compile(r"(\S+) +(\d+)$")


@dataclass
class LoggedJob:
    """A job that Snakemake has started or submitted to the cluster.

    Attributes
    ----------
    rule
        Its rule.
    begun
        When it was started or submitted.
    local
        Whether it runs on Snakemake's own machine, without a queue.
    wildcards
        Values by wildcard.
    log
        Its log file.
    benchmark
        Its benchmark file.
    ended
        When it finished or failed; None if it has not.
    failed
        Whether it failed.
    """

    rule: str
    begun: datetime
    local: bool
    wildcards: dict[str, str] = field(default_factory=dict)
    log: Path | None = None
    benchmark: Path | None = None
    ended: datetime | None = None
    failed: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """Rule and wildcards, which identify the job within the run."""
        return self.rule, *self.wildcards.values()


@dataclass
class RunLog:
    """A run.

    Attributes
    ----------
    planned
        Number of planned jobs by rule.
    jobs
        Jobs that have been started.
    """

    planned: dict[str, int] = field(default_factory=dict)
    jobs: list[LoggedJob] = field(default_factory=list)


def read_logs(folder: Path) -> list[RunLog]:
    """Read the logs of all runs in a folder that planned jobs, newest first.

    Paths of jobs remain as in the logs.
    """
    paths = sorted((folder / LOG_FOLDER).glob("*.snakemake.log"), reverse=True)
    logs = [_read(path, path.stat().st_size) for path in paths]
    # Calls of Snakemake by the jobs for the rule graph and the report plan no jobs. `plan`, which
    # makes no results, may be called during a run.
    return [log for log in logs if log.planned.keys() - {"plan"}]


@lru_cache(maxsize=1000)
def _read(path: Path, size: int) -> RunLog:
    return parse(path.read_text(encoding="utf-8", errors="replace"))


def parse(text: str) -> RunLog:
    """Parse a log; lines that are not about jobs are ignored."""
    run, jobs = RunLog(), dict[str, LoggedJob]()
    now = datetime.min
    job: LoggedJob | None = None
    counting = failing = False
    for line in text.splitlines():
        if time := TIME.match(line):
            now = datetime.strptime(time[1], "%a %b %d %H:%M:%S %Y")
            job, failing = None, False
        elif line == "Job stats:":
            counting = True
        elif counting:
            counting = bool(line)
            count = COUNT.match(line)
            if count and count[1] != "total":
                run.planned[count[1]] = int(count[2])
        elif line.startswith("Error in ") or line.strip() == "jobs:":
            failing = True
        elif (head := HEAD.match(line)) and not failing:
            job = LoggedJob(head[2], now, local=bool(head[1]))
        elif (finished := FINISHED.match(line)) and finished[1] in jobs:
            jobs[finished[1]].ended = now
        elif entry := ENTRY.match(line):
            name, value = entry.groups()
            if name == "jobid" and failing and value in jobs:
                jobs[value].failed, jobs[value].ended = True, now
            elif job and name == "jobid":
                # A retried job replaces its failed attempt.
                jobs[value] = job
            elif job:
                _add(job, name, value)
    run.jobs = list(jobs.values())
    return run


def _add(job: LoggedJob, name: str, value: str) -> None:
    if name == "wildcards":
        job.wildcards = dict(part.split("=", 1) for part in value.split(", "))
    elif name == "log":
        job.log = Path(value.split(", ")[0])
    elif name == "benchmark":
        job.benchmark = Path(value)
