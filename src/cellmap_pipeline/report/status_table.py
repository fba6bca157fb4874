"""Tables that show the status of a run in the terminal."""

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
from cellmap_pipeline.report.status import Job, Status, TimeLeft, read_status, stage_time_left

NO_RUN = "no run has been started in this folder"


def render_status(status: Status | None) -> RenderableType:
    """Render a headline and tables of the stages, the running jobs and the crops."""
    if status is None:
        return Text(NO_RUN)
    running = [job for job in status.jobs if job.state == "running"]
    parts: list[RenderableType] = [_headline(status), _stage_table(status)]
    if running:
        parts.append(_running_table(running))
    if crops := status.by_crop():
        parts.append(_crop_table(crops))
    return Group(*parts)


def watch_status(plan: Plan, interval_s: float) -> None:
    """Show the status until the run ends, updated every `interval_s` seconds."""
    status = read_status(plan)
    with Live(render_status(status), auto_refresh=False) as live:
        while status and status.alive:
            time.sleep(interval_s)
            status = read_status(plan)
            live.update(render_status(status), refresh=True)


def _headline(status: Status) -> Text:
    done = sum(job.state == "done" for job in status.jobs)
    state = "running" if status.alive else "ended" if _is_over(status) else "stopped"
    text = f"{state}, started {status.begun:%Y-%m-%d %H:%M}: {done} of {len(status.jobs)} jobs done"
    failed = sum(job.state == "failed" for job in status.jobs)
    if failed:
        text += f", {failed} failed"
    if status.alive and (left := _time_left_text(status.time_left)):
        text += f", {left} left"
    return Text(text, style="bold")


def _is_over(status: Status) -> bool:
    return all(job.state in ("done", "failed") for job in status.jobs)


def _stage_table(status: Status) -> Table:
    table = _table("stage", "", "done", "running", "queued", "failed", "time left")
    for stage, jobs in status.by_stage().items():
        counts = [sum(job.state == state for job in jobs) for state in ("running", "queued")]
        failed = sum(job.state == "failed" for job in jobs)
        table.add_row(
            stage,
            ProgressBar(len(jobs), _count_done(jobs), width=12),
            f"{_count_done(jobs)}/{len(jobs)}",
            *(str(count or "") for count in counts),
            Text(str(failed or ""), style="red"),
            _time_left_text(stage_time_left(jobs)),
        )
    return table


def _crop_table(crops: dict[int, list[Job]]) -> Table:
    table = _table("crop", "", "predicted", "labels", "time left")
    for crop, jobs in sorted(crops.items()):
        by_rule = [[job for job in jobs if job.rule == rule] for rule in ("predict", "segment")]
        both = [*by_rule[0], *by_rule[1]]
        table.add_row(
            str(crop),
            ProgressBar(len(both), _count_done(both), width=12),
            *(f"{_count_done(part)}/{len(part)}" if part else "" for part in by_rule),
            _time_left_text(stage_time_left(both)),
        )
    return table


def _running_table(jobs: Sequence[Job]) -> Table:
    table = _table("running now", "since", "step", "", "time left")
    for job in jobs:
        step, share = ("", "")
        if job.progress:
            step, share = job.progress.what, f"{job.progress.share:.0%}"
        since = f"{job.begun:%H:%M}" if job.begun else ""
        name = " ".join([job.rule, *job.wildcards.values()])
        table.add_row(name, since, step, share, _duration_text(job.seconds_left))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < 2 else "right", no_wrap=i == 0)
    return table


def _count_done(jobs: Sequence[Job]) -> int:
    return sum(job.state == "done" for job in jobs)


def _time_left_text(left: TimeLeft) -> str:
    if left.complete:
        return _duration_text(left.seconds) if left.seconds else ""
    return f"> {_duration_text(left.seconds)}" if left.seconds else "?"


def _duration_text(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    days, rest = divmod(round(seconds), 86_400)
    return (f"{days} d " if days else "") + str(timedelta(seconds=rest))
