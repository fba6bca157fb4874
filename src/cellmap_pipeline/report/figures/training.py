"""Figures of the training data and the progress of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cellmap_pipeline.channels import class_of
from cellmap_pipeline.classes import COLORS, LINES, MARKERS, in_class_order, style_of
from cellmap_pipeline.data.datasplit_csv import read_summary
from cellmap_pipeline.errors import InputError
from cellmap_pipeline.report.figures.style import (
    name_class_rows,
    saved_figure,
    split_into_panels,
    tint,
)

DATASET_COLOR = "#808080"
DICE_PREFIX = "val_dice/"
ROW_INCHES = 0.5
EDGE: dict[str, Any] = {"edgecolor": "black", "lw": 0.6}
VALIDATE_HATCH = "////"
# The panels of the figure of all trainings: column of `metrics.csv` and label of the axis.
CURVES = {
    "val_dice": "mean Dice of validation patches",
    "train_loss": "loss, training patches",
    "val_loss": "loss, validation patches",
}
# Ratio of the largest to the smallest volume above which the axis is logarithmic, because the
# shortest bars would be invisible on a linear one.
LOG_AXIS_RATIO = 30


def plot_datasplit(summary: Path, path: Path) -> None:
    """Draw the number and volume of crops for training and validation, per class and dataset.

    Parameters
    ----------
    summary
        `datasplit_summary.csv`.
    path
        PNG to write.
    """
    classes, datasets = (
        pd.DataFrame.from_dict(read_summary(summary, by), orient="index").assign(by=by)
        for by in ("class", "dataset")
    )
    classes = classes.loc[in_class_order(list(classes.index))]
    heights = [len(classes) + 1, len(datasets) + 1]
    with saved_figure(path, 10, 2.4 + ROW_INCHES * sum(heights)) as figure:
        axes = figure.subplots(2, 2, sharey="row", height_ratios=heights)
        _draw_split(axes[0], classes, "crops with labeled voxels", "labeled volume")
        _draw_split(axes[1], datasets, "crops", "annotated volume")
        sides = [
            Patch(facecolor="0.5", label="train", **EDGE),
            Patch(facecolor="0.8", label="validate", hatch=VALIDATE_HATCH, **EDGE),
        ]
        figure.legend(handles=sides, loc="outside upper center", ncols=2)


def plot_training(metrics: Path, path: Path) -> None:
    """Draw the curves of a training: losses, validation Dice per class, learning rate.

    Without validation, there are the training loss and the learning rate.

    Parameters
    ----------
    metrics
        `metrics.csv`, a row per epoch.
    path
        PNG to write.

    Raises
    ------
    InputError
        The file is missing or has no epochs.
    """
    table = _read_metrics(metrics)
    channels = [c.removeprefix(DICE_PREFIX) for c in table if c.startswith(DICE_PREFIX)]
    panels = split_into_panels(
        in_class_order([name for name in channels if name == class_of(name)])
    )
    heights = [3.0] * (1 + len(panels)) + [1.5]
    with saved_figure(path, 9, sum(heights) + 1) as figure:
        loss, *dice, rate = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        _draw_curve(loss, table, "train_loss", label="train", color="black", marker="o")
        _draw_curve(loss, table, "val_loss", label="validate", color="#D55E00", ls="--", marker="s")
        loss.set_ylabel("loss")
        for axes, labels in zip(dice, panels, strict=True):
            for label in labels:
                style = style_of(label)
                _draw_curve(
                    axes, table, DICE_PREFIX + label, label=label, color=style.color,
                    ls=style.line, marker=style.marker, mec="black", mew=0.4,
                )  # fmt: skip
                for name in [c for c in channels if class_of(c) == label != c]:
                    _draw_curve(
                        axes, table, DICE_PREFIX + name, label=name, color=style.color, ls=":"
                    )
            _draw_curve(axes, table, "val_dice", label="mean of all", color="black", lw=2.5)
            axes.set(ylabel="Dice of validation patches", ylim=(0, 1.02))
        _draw_curve(rate, table, "learning_rate", color="black")
        rate.set(ylabel="learning rate", xlabel="epochs", xlim=(0, table.index[-1] + 0.5))
        rate.set_ylim(bottom=0)
        rate.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (loss, *dice, rate):
            if "val_dice" in table:
                axes.axvline(
                    table["val_dice"].idxmax(), color="0.6", lw=1, zorder=0, label="best epoch"
                )
            axes.grid(axis="y", color="0.9")
        for axes in (loss, *dice):
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def plot_trainings(metrics: Mapping[str, Path], path: Path) -> None:
    """Draw the curves of all trainings in one figure: validation Dice and losses.

    Panels of validation are left out if no training has any.

    Parameters
    ----------
    metrics
        `metrics.csv` of each training, by its name.
    path
        PNG to write.

    Raises
    ------
    InputError
        A file is missing or has no epochs.
    """
    tables = {training: _read_metrics(file) for training, file in metrics.items()}
    shown = {
        column: name
        for column, name in CURVES.items()
        if any(column in table for table in tables.values())
    }
    with saved_figure(path, 9, 0.5 + 2.5 * len(shown)) as figure:
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        by_column = dict(zip(shown, panels, strict=True))
        for column, axes in by_column.items():
            for i, (training, table) in enumerate(tables.items()):
                _draw_curve(
                    axes, table, column, label=training, mec="black", mew=0.4,
                    color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)],
                    ls=LINES[i % len(LINES)],
                )  # fmt: skip
            axes.set_ylabel(shown[column])
            axes.grid(axis="y", color="0.9")
        if "val_dice" in by_column:
            by_column["val_dice"].set_ylim(0, 1.02)
        panels[-1].set_xlabel("epochs (each training has its own epoch length)")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        # Only the panel of the training loss has a curve of each training.
        handles = by_column["train_loss"].lines
        panels[0].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def _draw_split(axes: Sequence[Axes], table: pd.DataFrame, crops: str, volume: str) -> None:
    """Draw the crops and their volume on both sides; `crops` and `volume` name the axes."""
    _draw_split_bars(axes[0], table, "crops")
    _draw_split_bars(axes[1], table, "um3")
    name_class_rows(axes[0], list(table.index))
    axes[0].set_xlabel(crops)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    um3 = table[["train_um3", "validate_um3"]].to_numpy()
    um3 = um3[um3 > 0]
    is_log = bool(um3.size) and um3.max() > LOG_AXIS_RATIO * um3.min()
    axes[1].set_xscale("log" if is_log else "linear")
    axes[1].set_xlabel(f"{volume} (µm³" + (", logarithmic)" if is_log else ")"))


def _draw_split_bars(axes: Axes, table: pd.DataFrame, unit: str) -> None:
    """Draw two bars per row of `table`: training, and below it, lighter, validation."""

    def color_of(name: str) -> str:
        return style_of(name).color if table["by"].iloc[0] == "class" else DATASET_COLOR

    for side, dy, lightness, hatch in (
        ("train", -0.2, 0.0, ""),
        ("validate", 0.2, 0.6, VALIDATE_HATCH),
    ):
        for y, (label, value) in enumerate(table[f"{side}_{unit}"].items()):
            color = tint(color_of(str(label)), lightness)
            axes.barh(y + dy, value, 0.36, color=color, hatch=hatch, **EDGE)
            # A logarithmic axis has no zero: its text is placed next to the vertical axis.
            coordinates = "data" if value else axes.get_yaxis_transform()
            axes.annotate(
                f"{value:.3g}", (value, y + dy), (4, 0), coordinates, "offset points", va="center",
                fontsize=8,
            )  # fmt: skip
    axes.margins(x=0.12)


def _read_metrics(metrics: Path) -> pd.DataFrame:
    """Read metrics, indexed by the number of completed epochs."""
    try:
        table = pd.read_csv(metrics)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        table = pd.DataFrame()
    if table.empty:
        raise InputError(
            f"{metrics} is missing or empty: the training writes its curves there; restore the "
            "file, or train again"
        )
    return table.set_index(table["epoch"] + 1)


def _draw_curve(axes: Axes, table: pd.DataFrame, column: str, **style: Any) -> None:
    if column in table:
        logged = table[column].dropna()
        style.setdefault("marker", ".")
        axes.plot(logged.index, logged, ms=5, markevery=max(1, len(logged) // 20), **style)
