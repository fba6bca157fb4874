"""Figure of the time, memory and GPU use of the jobs of each rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from cellmap_pipeline.errors import InputError
from cellmap_pipeline.report.figures.style import saved_figure

# Snakemake's and NVIDIA's figures are in MiB.
GB_PER_MIB = 2**20 / 1e9
ROW_INCHES = 0.42
BAR: dict[str, Any] = {"color": "0.75", "edgecolor": "black", "lw": 0.6}


def read_benchmarks(benchmarks: Path, logs: Path) -> pd.DataFrame:
    """Read what Snakemake and the jobs measured, a row per job.

    Parameters
    ----------
    benchmarks
        Folder of Snakemake's benchmarks, `{rule}.tsv` and `{rule}/….tsv`.
    logs
        Folder of the jobs' logs, with a `….gpu.json` for each job that used a GPU.

    Returns
    -------
    DataFrame
        Columns `rule`, `hours`, `memory_gb` (peak), `gpu_hours` (of all GPUs that the job saw),
        `gpu_busy` (percent) and `gpu_gb` (peak); NaN for values that were not measured.

    Raises
    ------
    InputError
        A benchmark is not one, such as an empty file that a full disk left.
    """
    rows = []
    for path in sorted(benchmarks.rglob("*.tsv")):
        name = path.relative_to(benchmarks).with_suffix("")
        table = _read_benchmark(path)
        gpu_file = logs / f"{name}.gpu.json"
        gpu = json.loads(gpu_file.read_text()) if gpu_file.is_file() else {}
        for _, job in table.iterrows():
            rows.append(
                {
                    "rule": name.parts[0],
                    "hours": job["s"] / 3600,
                    "memory_gb": GB_PER_MIB * pd.to_numeric(job["max_rss"], errors="coerce"),
                    "gpu_hours": len(gpu["gpus"]) * job["s"] / 3600 if gpu else float("nan"),
                    "gpu_busy": gpu.get("busy_percent"),
                    "gpu_gb": GB_PER_MIB * gpu.get("peak_memory_mb", float("nan")),
                }
            )
    columns = ["rule", "hours", "memory_gb", "gpu_hours", "gpu_busy", "gpu_gb"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[1:], float))


def _read_benchmark(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t").astype({"s": float, "max_rss": object})
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not a benchmark of Snakemake ({error}): delete it; the figures of the "
            "report are then made without it"
        ) from None


def plot_resources(benchmarks: Path, logs: Path, path: Path) -> None:
    """Draw per rule the total time and that of the longest job, peak memory and GPU use.

    Parameters
    ----------
    benchmarks, logs
        Folders, as for `read_benchmarks`.
    path
        PNG to write.
    """
    jobs = read_benchmarks(benchmarks, logs)
    by_rule = jobs.groupby("rule")
    rules = by_rule["hours"].sum().sort_values(ascending=False).index
    with_gpu = bool(jobs["gpu_busy"].notna().any())
    columns = 4 if with_gpu else 2
    with saved_figure(path, 3 + 2.6 * columns, 1.5 + ROW_INCHES * max(1, len(rules))) as figure:
        axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
        counts = by_rule.size()
        names = [f"{rule} ({counts[rule]})" if counts[rule] > 1 else rule for rule in rules]
        time, memory = axes[:2]
        _draw_bars(time, by_rule["hours"].sum()[rules], duration_text)
        time.plot(
            by_rule["hours"].max()[rules], range(len(rules)), ls="", marker="d", ms=7, mfc="white",
            mec="black", label="longest job",
        )  # fmt: skip
        time.set_xlabel("hours of all jobs (number of jobs)")
        if len(rules):
            time.legend(loc="lower right")
        _draw_bars(memory, by_rule["memory_gb"].max()[rules], "{:.1f}".format)
        memory.set_xlabel("peak memory of a job, GB")
        if with_gpu:
            _draw_bars(axes[2], by_rule["gpu_busy"].mean()[rules], "{:.0f}".format)
            axes[2].set_xlabel("GPU busy, % (mean)")
            _draw_bars(axes[3], by_rule["gpu_gb"].max()[rules], "{:.1f}".format)
            axes[3].set_xlabel("peak GPU memory, GB")
        time.set_yticks(range(len(rules)), names)
        time.set_ylim(len(rules) - 0.5, -0.5)


def _draw_bars(axes: Axes, values: pd.Series, text: Callable[[float], str]) -> None:
    for y, value in enumerate(values):
        if pd.notna(value):
            axes.barh(y, value, 0.7, **BAR)
            axes.annotate(text(value), (value, y), (4, 0), textcoords="offset points", va="center")
    axes.margins(x=0.2)
    axes.set_xlim(left=0)


def duration_text(hours: float) -> str:
    """Format a duration in the unit that suits it: s, min or h."""
    seconds = 3600 * hours
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if hours < 1 else f"{hours:.1f} h"
