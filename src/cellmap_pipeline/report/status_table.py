"""The status of a run as tables for the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cellmap_pipeline.plan.plan import Plan
from cellmap_pipeline.report.status import Job, Status, TimeLeft, look, time_left

NO_RUN = "no run has done anything in this folder"


def show(status: Status | None) -> RenderableType:
    """A line about the run, its stages, what runs now, and its crops."""
    if status is None:
        return Text(NO_RUN)
    running = [job for job in status.jobs if job.state == "running"]
    parts: list[RenderableType] = [_headline(status), _stages(status)]
    if running:
        parts.append(_running(running))
    if crops := status.by_crop():
        parts.append(_crops(crops))
    return Group(*parts)


def watch(plan: Plan, seconds: float) -> None:
    """Show the status and go on until the run ends; `seconds` between looks."""
    status = look(plan)
    with Live(show(status), auto_refresh=False) as live:
        while status and status.alive:
            time.sleep(seconds)
            status = look(plan)
            live.update(show(status), refresh=True)


def _headline(status: Status) -> Text:
    done = sum(job.state == "done" for job in status.jobs)
    words = "running" if status.alive else "ended" if _is_over(status) else "stopped"
    text = f"{words}, begun {status.begun:%Y-%m-%d %H:%M}: {done} of {len(status.jobs)} jobs done"
    failed = sum(job.state == "failed" for job in status.jobs)
    if failed:
        text += f", {failed} failed"
    if status.alive and (left := _words(status.left)):
        text += f", {left} left"
    return Text(text, style="bold")


def _is_over(status: Status) -> bool:
    return all(job.state in ("done", "failed") for job in status.jobs)


def _stages(status: Status) -> Table:
    table = _table("stage", "", "done", "running", "queued", "failed", "time left")
    for stage, jobs in status.by_stage().items():
        counts = [sum(job.state == state for job in jobs) for state in ("running", "queued")]
        failed = sum(job.state == "failed" for job in jobs)
        table.add_row(
            stage,
            ProgressBar(len(jobs), _done(jobs), width=12),
            f"{_done(jobs)}/{len(jobs)}",
            *(str(count or "") for count in counts),
            Text(str(failed or ""), style="red"),
            _words(time_left(jobs)),
        )
    return table


def _crops(crops: dict[int, list[Job]]) -> Table:
    table = _table("crop", "", "predicted", "labels", "time left")
    for crop, jobs in sorted(crops.items()):
        of = [[job for job in jobs if job.rule == rule] for rule in ("predict", "segment")]
        both = [*of[0], *of[1]]
        table.add_row(
            str(crop),
            ProgressBar(len(both), _done(both), width=12),
            *(f"{_done(part)}/{len(part)}" if part else "" for part in of),
            _words(time_left(both)),
        )
    return table


def _running(jobs: Sequence[Job]) -> Table:
    table = _table("running now", "since", "at", "", "time left")
    for job in jobs:
        at, share = (job.progress.what, f"{job.progress.share:.0%}") if job.progress else ("", "")
        since = f"{job.begun:%H:%M}" if job.begun else ""
        name = " ".join([job.rule, *job.wildcards.values()])
        table.add_row(name, since, at, share, _time(job.left))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < 2 else "right", no_wrap=i == 0)
    return table


def _done(jobs: Sequence[Job]) -> int:
    return sum(job.state == "done" for job in jobs)


def _words(left: TimeLeft) -> str:
    if left.complete:
        return _time(left.seconds) if left.seconds else ""
    return f"> {_time(left.seconds)}" if left.seconds else "?"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    days, rest = divmod(round(seconds), 86_400)
    return (f"{days} d " if days else "") + str(timedelta(seconds=rest))
