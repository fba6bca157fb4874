"""Figures of what a network learned from, and how its training went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cellmap_pipeline.channels import class_of
from cellmap_pipeline.classes import COLOURS, LINES, MARKERS, in_order, look_of
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.report.style import class_rows, drawing, in_panels, tint

DICE = "val_dice/"
ROW_INCHES = 0.5
EDGE: dict[str, Any] = {"edgecolor": "black", "lw": 0.6}
VALIDATE_HATCH = "////"
# Beyond this ratio of the largest to the smallest volume, short bars would vanish on a linear axis.
LOG_RATIO = 30


def plot_datasplit(summary: Path, path: Path) -> None:
    """Draw per class the crops and the labelled volume that train and that validate.

    Parameters
    ----------
    summary
        `datasplit_summary.csv`.
    path
        PNG to write.
    """
    table = pd.read_csv(summary, index_col="class")
    labels = in_order(list(table.index))
    with drawing(path, 10, 1.6 + ROW_INCHES * len(labels)) as figure:
        crops, volume = figure.subplots(1, 2, sharey=True)
        _split_bars(crops, table.loc[labels], "crops")
        _split_bars(volume, table.loc[labels], "um3")
        class_rows(crops, labels)
        crops.set_xlabel("crops with labelled voxels")
        crops.xaxis.set_major_locator(MaxNLocator(integer=True))
        held = table[["train_um3", "validate_um3"]].to_numpy()
        held = held[held > 0]
        wide = bool(held.size) and held.max() > LOG_RATIO * held.min()
        volume.set_xscale("log" if wide else "linear")
        volume.set_xlabel("labelled volume (µm³" + (", logarithmic)" if wide else ")"))
        sides = [
            Patch(facecolor="0.5", label="train", **EDGE),
            Patch(facecolor="0.8", label="validate", hatch=VALIDATE_HATCH, **EDGE),
        ]
        figure.legend(handles=sides, loc="outside upper center", ncols=2)


def plot_training(metrics: Path, path: Path) -> None:
    """Draw the curves of a training: losses, validation Dice per class, learning rate.

    Parameters
    ----------
    metrics
        `metrics.csv`, a row per epoch.
    path
        PNG to write.

    Raises
    ------
    InputError
        The file is missing or holds no epoch.
    """
    table = _read_metrics(metrics)
    channels = [column.removeprefix(DICE) for column in table if column.startswith(DICE)]
    panels = in_panels(in_order([name for name in channels if name == class_of(name)]))
    heights = [3.0] * (1 + len(panels)) + [1.5]
    with drawing(path, 9, sum(heights) + 1) as figure:
        loss, *dice, rate = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        _curve(loss, table, "train_loss", label="train", color="black", marker="o")
        _curve(loss, table, "val_loss", label="validate", color="#D55E00", ls="--", marker="s")
        loss.set_ylabel("loss")
        for axes, labels in zip(dice, panels, strict=True):
            for label in labels:
                look = look_of(label)
                _curve(
                    axes, table, DICE + label, label=label, color=look.colour, ls=look.line,
                    marker=look.marker, mec="black", mew=0.4,
                )  # fmt: skip
                for name in [c for c in channels if class_of(c) == label != c]:
                    _curve(axes, table, DICE + name, label=name, color=look.colour, ls=":")
            _curve(axes, table, "val_dice", label="mean of all", color="black", lw=2.5)
            axes.set(ylabel="Dice of validation patches", ylim=(0, 1.02))
        _curve(rate, table, "learning_rate", color="black")
        rate.set(ylabel="learning rate", xlabel="epochs", xlim=(0, table.index[-1] + 0.5))
        rate.set_ylim(bottom=0)
        rate.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (loss, *dice, rate):
            axes.axvline(
                table["val_dice"].idxmax(), color="0.6", lw=1, zorder=0, label="best epoch"
            )
            axes.grid(axis="y", color="0.9")
        for axes in (loss, *dice):
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def plot_trainings(metrics: Mapping[str, Path], path: Path) -> None:
    """Draw the curves of all trainings together: validation Dice and losses.

    Parameters
    ----------
    metrics
        By training, its `metrics.csv`.
    path
        PNG to write.

    Raises
    ------
    InputError
        A file is missing or holds no epoch.
    """
    with drawing(path, 9, 8) as figure:
        panels = figure.subplots(3, 1, sharex=True)
        for axes, (column, name) in zip(
            panels,
            (
                ("val_dice", "mean Dice of validation patches"),
                ("train_loss", "loss, training patches"),
                ("val_loss", "loss, validation patches"),
            ),
            strict=True,
        ):
            for i, (training, file) in enumerate(metrics.items()):
                _curve(
                    axes, _read_metrics(file), column, label=training, mec="black", mew=0.4,
                    color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)],
                    ls=LINES[i % len(LINES)],
                )  # fmt: skip
            axes.set_ylabel(name)
            axes.grid(axis="y", color="0.9")
        panels[0].set_ylim(0, 1.02)
        panels[-1].set_xlabel("epochs (of each training's own length)")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def _split_bars(axes: Axes, table: pd.DataFrame, unit: str) -> None:
    """Two bars per row of `table`: what trains, and below it, lighter, what validates."""
    for side, dy, lighter, hatch in (
        ("train", -0.2, 0.0, ""),
        ("validate", 0.2, 0.6, VALIDATE_HATCH),
    ):
        for y, (label, value) in enumerate(table[f"{side}_{unit}"].items()):
            colour = tint(look_of(str(label)).colour, lighter)
            axes.barh(y + dy, value, 0.36, color=colour, hatch=hatch, **EDGE)
            # On a logarithmic axis zero lies nowhere: it stands at the axis.
            at = "data" if value else axes.get_yaxis_transform()
            axes.annotate(
                f"{value:.3g}", (value, y + dy), (4, 0), at, "offset points", va="center",
                fontsize=8,
            )  # fmt: skip
    axes.margins(x=0.12)


def _read_metrics(metrics: Path) -> pd.DataFrame:
    """The metrics by the number of epochs done."""
    try:
        table = pd.read_csv(metrics)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        table = pd.DataFrame()
    if table.empty:
        raise InputError(
            f"{metrics} is missing or empty: the training writes its curves there; bring the file "
            "back, or train again"
        )
    return table.set_index(table["epoch"] + 1)


def _curve(axes: Axes, table: pd.DataFrame, column: str, **style: Any) -> None:
    if column in table:
        logged = table[column].dropna()
        style.setdefault("marker", ".")
        axes.plot(logged.index, logged, ms=5, markevery=max(1, len(logged) // 20), **style)
