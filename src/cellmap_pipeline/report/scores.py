"""Figures of scores: on validation crops, between trainings, and of the submission."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from cellmap_pipeline.classes import in_order, is_instance, look_of
from cellmap_pipeline.report.style import class_bars, drawing, frame_cell, heat_map, in_panels

ROW_INCHES = 0.5
BEHIND = {"facecolor": "white", "alpha": 0.7, "pad": 0.5, "lw": 0}


def plot_validation(scores: Path, settings: Path, path: Path) -> None:
    """Draw per class the validation score, tuned and with a plain 0.5, what was found, and the
    threshold curves.

    Parameters
    ----------
    scores, settings
        `validation/scores.json` and `postprocess.json`.
    path
        PNG to write.
    """
    read = json.loads(scores.read_text())
    classes: dict[str, Any] = read["classes"]
    found = json.loads(settings.read_text())
    labels = in_order(list(classes))
    panels = in_panels(labels)
    height = 1.6 + max(ROW_INCHES * len(labels), 3.0 * len(panels))
    with drawing(path, 12, height) as figure:
        left, right = figure.subfigures(1, 2, squeeze=False).flat
        bars = left.subplots()
        class_bars(bars, labels, {label: classes[label]["score"] for label in labels})
        bars.plot(
            [classes[label]["score_at_half"] for label in labels], range(len(labels)), ls="",
            marker="d", ms=8, mfc="white", mec="black", label="not tuned: threshold 0.5",
        )  # fmt: skip
        for y, label in enumerate(labels):
            bars.text(0.02, y + 0.28, _found(found[label]), fontsize=7, bbox=BEHIND)
        bars.set_xlabel("score on the validation crops")
        bars.set_title(_overall(read), fontsize=10)
        left.legend(loc="outside lower left")
        for axes, shown in zip(
            right.subplots(len(panels), squeeze=False).flat, panels, strict=True
        ):
            for label in shown:
                for size in classes[label]["voxel_sizes"]:
                    _threshold_curve(axes, label, size)
            axes.axvline(0.5, color="0.7", lw=1, zorder=0)
            axes.set(xlabel="threshold", ylabel="score", xlim=(0, 1), ylim=(0, 1.05))
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        right.suptitle("large marker: best threshold", fontsize=10)


def plot_selection(selection: Path, path: Path) -> None:
    """Draw the validation score of each training per label and voxel size, the chosen framed.

    Parameters
    ----------
    selection
        `selection.csv`.
    path
        PNG to write.
    """
    table = pd.read_csv(selection, dtype=str, keep_default_na=False)
    order = {label: i for i, label in enumerate(in_order(sorted(set(table["label"]))))}
    kinds = sorted(
        set(zip(table["label"], table["voxel_size"], strict=True)),
        key=lambda kind: (order[kind[0]], [float(v) for v in kind[1].split()]),
    )
    trainings = list(dict.fromkeys(table["training"]))
    values: dict[tuple[int, int], float] = {}
    texts: dict[tuple[int, int], str] = {}
    chosen = []
    for row in table.to_dict("records"):
        cell = kinds.index((row["label"], row["voxel_size"])), trainings.index(row["training"])
        if row["score"]:
            values[cell] = float(row["score"])
        texts[cell] = f"{values[cell]:.3f}" if cell in values else "no score"
        if row["chosen"] == "yes":
            chosen.append(cell)
            texts[cell] += " ✓"
    names = [f"{label}, {_voxels(size)}" for label, size in kinds]
    with drawing(path, 3.5 + 1.5 * len(trainings), 1.8 + ROW_INCHES * len(kinds)) as figure:
        axes = figure.subplots()
        heat_map(axes, names, trainings, values, texts)
        for cell in chosen:
            frame_cell(axes, *cell)
        axes.set_title("validation score; chosen: framed, ✓")


def plot_scores(scores: Path, path: Path) -> None:
    """Draw the official scores of the submission per class, and per crop and class.

    Parameters
    ----------
    scores
        `scores.csv`.
    path
        PNG to write.
    """
    table = pd.read_csv(scores)
    whole = table[table["crop"] == "all"].set_index("label")
    overall = whole[whole.index.str.startswith("overall_")]["score"].to_dict()
    classes = whole[~whole.index.str.startswith("overall_")]
    labels = in_order(list(classes.index))
    per_crop = table[table["crop"] != "all"]
    crops = sorted(per_crop["crop"].unique(), key=lambda crop: (len(crop), crop))
    width = 7 + max(3.0, 0.85 * len(crops))
    with drawing(path, width, max(3.5, 1.9 + ROW_INCHES * len(labels))) as figure:
        bars, cells = figure.subplots(1, 2, width_ratios=[6, max(3.0, 0.85 * len(crops))])
        class_bars(bars, labels, classes["score"].to_dict())
        _parts(bars, labels, classes)
        bars.set_xlabel("instances: combined score; others: IoU")
        bars.set_title(_overall(overall), fontsize=10)
        figure.legend(loc="outside lower left", ncols=2)
        _crop_map(cells, labels, crops, per_crop)


def plot_leaderboard(leaderboard: Path, path: Path) -> None:
    """Draw the scores of all trainings, and of the submission where they are known, per class.

    Parameters
    ----------
    leaderboard
        `leaderboard.csv`.
    path
        PNG to write.
    """
    table = pd.read_csv(leaderboard)
    names = [f"{name}\n({on})" for name, on in zip(table["name"], table["scored_on"], strict=True)]
    rows = list(table.columns[table.columns.get_loc("overall_score") :])
    values = {
        (rows.index(row), column): float(value)
        for row in rows
        for column, value in enumerate(table[row])
        if not pd.isna(value)
    }
    shown = [row.replace("_", " ") if row.startswith("overall_") else row for row in rows]
    with drawing(path, 3 + 1.6 * len(names), 1.8 + ROW_INCHES * len(rows)) as figure:
        axes = figure.subplots()
        heat_map(axes, shown, names, values, {at: f"{v:.3f}" for at, v in values.items()})
        axes.set_title("official scores; overall: over the classes that each has")


def _found(entries: Sequence[Mapping[str, Any]]) -> str:
    """Methods and thresholds found, by voxel size."""
    by_size = {
        _voxels(" ".join(f"{v:g}" for v in entry["voxel_size"])): (
            f"{entry['settings']['method']} ≥ {entry['settings']['threshold']:.2f}"
        )
        for entry in entries
    }
    if len(set(by_size.values())) == 1:
        return next(iter(by_size.values()))
    return "; ".join(f"{size}: {text}" for size, text in by_size.items())


def _threshold_curve(axes: Axes, label: str, size: Mapping[str, Any]) -> None:
    if not size["curve"]:
        return
    look = look_of(label)
    points = sorted((point["threshold"], point["score"]) for point in size["curve"])
    best = max(points, key=lambda point: point[1])
    line: dict[str, Any] = {"color": look.colour, "marker": look.marker, "mec": "black"}
    every = max(1, len(points) // 12)
    voxels = _voxels(" ".join(f"{v:g}" for v in size["measured_at"]))
    axes.plot(
        *zip(*points, strict=True), ls=look.line, ms=4, mew=0.4, markevery=every,
        label=f"{label}, {voxels}", **line,
    )  # fmt: skip
    axes.plot(*best, ms=10, mew=1.2, **line)


def _parts(axes: Axes, labels: Sequence[str], classes: pd.DataFrame) -> None:
    """Mark the two parts of an instance class's combined score."""
    places = [y for y, label in enumerate(labels) if is_instance(label)]
    instances = [labels[y] for y in places]
    for column, marker, name in (
        ("f1", "o", "F1: objects found"),
        ("normalized_hausdorff_distance", "D", "Hausdorff: outlines"),
    ):
        if instances:
            axes.plot(
                classes.loc[instances, column], places, ls="", marker=marker, ms=6, mfc="white",
                mec="black", label=name,
            )  # fmt: skip


def _crop_map(
    axes: Axes, labels: Sequence[str], crops: Sequence[str], per_crop: pd.DataFrame
) -> None:
    values: dict[tuple[int, int], float] = {}
    texts: dict[tuple[int, int], str] = {}
    for row in per_crop.to_dict("records"):
        cell = labels.index(row["label"]), crops.index(row["crop"])
        if row["status"] == "scored":
            values[cell] = row["score"]
            texts[cell] = f"{row['score']:.2f}"
        else:
            texts[cell] = row["status"].split("_")[0]
    heat_map(axes, labels, crops, values, texts)
    axes.set_title("per crop", fontsize=10)


def _overall(scores: Mapping[str, float]) -> str:
    return (
        f"overall {scores['overall_score']:.3f} "
        f"(instances {scores['overall_instance_score']:.3f}, "
        f"semantic {scores['overall_semantic_score']:.3f})"
    )


def _voxels(size: str) -> str:
    """Voxel size for people: "8 nm", or "3.48 × 4 × 4 nm"."""
    parts = size.split()
    return f"{parts[0] if len(set(parts)) == 1 else ' × '.join(parts)} nm"
