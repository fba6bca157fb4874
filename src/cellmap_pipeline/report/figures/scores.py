"""Figures of scores: on validation crops, by training, and of the submission."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from cellmap_pipeline.classes import COLORS, MARKERS, in_class_order, is_instance, style_of
from cellmap_pipeline.report.figures.style import (
    draw_class_bars,
    draw_heat_map,
    frame_cell,
    saved_figure,
    split_into_panels,
)
from cellmap_pipeline.scoring.rules.base import Rules
from cellmap_pipeline.scoring.rules.registry import rules_named

ROW_INCHES = 0.5
TEXT_BOX = {"facecolor": "white", "alpha": 0.7, "pad": 0.5, "lw": 0}


def plot_validation(scores: Path, settings: Path, path: Path) -> None:
    """Draw validation scores per class, tuned and at a threshold of 0.5, and threshold curves.

    The bars also show the tuned settings.

    Parameters
    ----------
    scores
        `validation/scores.json`.
    settings
        `validation/postprocess.json`, the tuned settings.
    path
        PNG to write.
    """
    read = json.loads(scores.read_text())
    classes: dict[str, Any] = read["classes"]
    tuned = json.loads(settings.read_text())
    labels = in_class_order(list(classes))
    panels = split_into_panels(labels)
    height = 1.6 + max(ROW_INCHES * len(labels), 3.0 * len(panels))
    with saved_figure(path, 12, height) as figure:
        left, right = figure.subfigures(1, 2, squeeze=False).flat
        bars = left.subplots()
        draw_class_bars(bars, labels, {label: classes[label]["score"] for label in labels})
        bars.plot(
            [classes[label]["score_at_half"] for label in labels], range(len(labels)), ls="",
            marker="d", ms=8, mfc="white", mec="black", label="not tuned: threshold 0.5",
        )  # fmt: skip
        cross_fitted = {label: classes[label].get("cross_fitted_score") for label in labels}
        known = [(score, y) for y, score in enumerate(cross_fitted.values()) if score is not None]
        if known:
            bars.plot(
                *zip(*known, strict=True), ls="", marker="|", ms=16, mew=2, color="black",
                label="cross-fitted: tuned on other crops",
            )  # fmt: skip
        for y, label in enumerate(labels):
            bars.text(0.02, y + 0.28, _settings_text(tuned[label]), fontsize=7, bbox=TEXT_BOX)
        bars.set_xlabel("score on the validation crops")
        bars.set_title(_overall_text(read), fontsize=10)
        left.legend(loc="outside lower left")
        for axes, shown in zip(
            right.subplots(len(panels), squeeze=False).flat, panels, strict=True
        ):
            for label in shown:
                for size in classes[label]["voxel_sizes"]:
                    _draw_threshold_curve(axes, label, size)
            axes.axvline(0.5, color="0.7", lw=1, zorder=0)
            axes.set(xlabel="threshold", ylabel="score", xlim=(0, 1), ylim=(0, 1.05))
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        right.suptitle("large marker: best threshold", fontsize=10)


def plot_selection(selection: Path, path: Path) -> None:
    """Draw the validation score of each source per label and voxel size, chosen ones framed.

    Beside them are the differences to the best source on the crops that all sources share, with
    their standard errors; open choices are marked.

    Parameters
    ----------
    selection
        `selection.csv`.
    path
        PNG to write.
    """
    table = pd.read_csv(selection, dtype=str, keep_default_na=False)
    order = {label: i for i, label in enumerate(in_class_order(sorted(set(table["label"]))))}
    rows = sorted(
        set(zip(table["label"], table["voxel_size"], strict=True)),
        key=lambda row: (order[row[0]], [float(v) for v in row[1].split()]),
    )
    sources = list(dict.fromkeys(table["training"]))
    entries = {
        (rows.index((entry["label"], entry["voxel_size"])), sources.index(entry["training"])): entry
        for entry in table.to_dict("records")
    }
    is_open = {row for (row, _), entry in entries.items() if entry["open"] == "yes"}
    names = [
        f"{label}, {_voxel_size_text(size)}{' (open)' if row in is_open else ''}"
        for row, (label, size) in enumerate(rows)
    ]
    cells_width = 3.5 + 1.5 * len(sources)
    height = 1.8 + ROW_INCHES * len(rows)
    with saved_figure(path, cells_width + 4, height) as figure:
        cells, differences = figure.subplots(1, 2, width_ratios=[cells_width, 4])
        _draw_selection_map(cells, names, sources, entries)
        _draw_differences(differences, names, sources, entries)


def _draw_selection_map(
    axes: Axes,
    names: Sequence[str],
    sources: Sequence[str],
    entries: Mapping[tuple[int, int], Mapping[str, str]],
) -> None:
    # Scores on the shared crops are those that were compared.
    found = {cell: entry["shared_score"] or entry["score"] for cell, entry in entries.items()}
    values = {cell: float(score) for cell, score in found.items() if score}
    texts = {cell: f"{values[cell]:.3f}" if cell in values else "no score" for cell in entries}
    chosen = [cell for cell, entry in entries.items() if entry["chosen"] == "yes"]
    for cell in chosen:
        texts[cell] += " ✓"
    draw_heat_map(axes, names, sources, values, texts)
    for cell in chosen:
        frame_cell(axes, *cell)
    axes.set_title("validation score; chosen: framed, ✓")


def _draw_differences(
    axes: Axes,
    names: Sequence[str],
    sources: Sequence[str],
    entries: Mapping[tuple[int, int], Mapping[str, str]],
) -> None:
    """Draw by how much the score of each source lies below the best, with its standard error."""
    best: dict[int, float] = {}
    for (row, _), entry in entries.items():
        if entry["shared_score"]:
            best[row] = max(best.get(row, 0.0), float(entry["shared_score"]))
    for column, source in enumerate(sources):
        points = [
            (
                float(entry["shared_score"]) - best[row],
                row + 0.6 * ((column + 0.5) / len(sources) - 0.5),
                float(entry["standard_error"] or 0),
            )
            for (row, of_source), entry in entries.items()
            if of_source == column and entry["shared_score"]
        ]
        if points:
            x, y, error = zip(*points, strict=True)
            axes.errorbar(
                x, y, xerr=error, ls="", marker=MARKERS[column % len(MARKERS)], ms=6, mec="black",
                mew=0.4, color=COLORS[column % len(COLORS)], ecolor="0.3", capsize=2, label=source,
            )  # fmt: skip
    axes.axvline(0, color="0.7", lw=1, zorder=0)
    axes.set_yticks(range(len(names)), [])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("difference to the best, ± standard error")
    axes.set_title("on the crops that all share", fontsize=10)
    if best:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def plot_scores(scores: Path, path: Path) -> None:
    """Draw the official scores of the submission per class, and per crop and class.

    Parameters
    ----------
    scores
        `scores.csv`.
    path
        PNG to write.
    """
    table = pd.read_csv(scores, dtype={"rules": str})
    rules = rules_named(table["rules"].iloc[0])
    all_crops = table[table["crop"] == "all"].set_index("label")
    is_overall = all_crops.index.str.startswith("overall_")
    overall = all_crops[is_overall]["score"].to_dict()
    classes = all_crops[~is_overall]
    labels = in_class_order(list(classes.index))
    per_crop = table[table["crop"] != "all"]
    crops = sorted(per_crop["crop"].unique(), key=lambda crop: (len(crop), crop))
    width = 7 + max(3.0, 0.85 * len(crops))
    with saved_figure(path, width, max(3.5, 1.9 + ROW_INCHES * len(labels))) as figure:
        bars, cells = figure.subplots(1, 2, width_ratios=[6, max(3.0, 0.85 * len(crops))])
        draw_class_bars(bars, labels, classes["score"].to_dict())
        _mark_score_components(bars, labels, classes, rules)
        measures = f"instances: {rules.object_measure}; others: {rules.voxel_measure}"
        bars.set_xlabel(measures.replace("_", " ").replace("iou", "IoU"))
        bars.set_title(f"{_overall_text(overall)}\nrules of {rules.name}", fontsize=10)
        figure.legend(loc="outside lower left", ncols=2)
        _draw_crop_map(cells, labels, crops, per_crop)


def plot_leaderboard(leaderboard: Path, path: Path) -> None:
    """Draw the scores of all sources per class, and those of the submission if they are known.

    Parameters
    ----------
    leaderboard
        `leaderboard.csv`.
    path
        PNG to write.
    """
    table = pd.read_csv(leaderboard)
    names = [
        f"{name}\n({crops})" for name, crops in zip(table["name"], table["scored_on"], strict=True)
    ]
    rows = list(table.columns[table.columns.get_loc("overall_score") :])
    values = {
        (rows.index(row), column): float(value)
        for row in rows
        for column, value in enumerate(table[row])
        if not pd.isna(value)
    }
    shown = [row.replace("_", " ") if row.startswith("overall_") else row for row in rows]
    with saved_figure(path, 3 + 1.6 * len(names), 1.8 + ROW_INCHES * len(rows)) as figure:
        axes = figure.subplots()
        draw_heat_map(axes, shown, names, values, {cell: f"{v:.3f}" for cell, v in values.items()})
        rules = " and ".join(sorted(set(table["rules"].astype(str))))
        axes.set_title(f"scores by the rules of {rules}; overall: over the classes of each column")


def _settings_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """Tuned methods and thresholds, by voxel size if they differ."""
    by_size = {
        _voxel_size_text(" ".join(f"{v:g}" for v in entry["voxel_size"])): (
            f"{entry['settings']['method']} ≥ {entry['settings']['threshold']:.2f}"
        )
        for entry in entries
    }
    if len(set(by_size.values())) == 1:
        return next(iter(by_size.values()))
    return "; ".join(f"{size}: {text}" for size, text in by_size.items())


def _draw_threshold_curve(axes: Axes, label: str, size: Mapping[str, Any]) -> None:
    if not size["curve"]:
        return
    style = style_of(label)
    points = sorted((point["threshold"], point["score"]) for point in size["curve"])
    best = max(points, key=lambda point: point[1])
    line: dict[str, Any] = {"color": style.color, "marker": style.marker, "mec": "black"}
    every = max(1, len(points) // 12)
    voxel_size = _voxel_size_text(" ".join(f"{v:g}" for v in size["measured_at"]))
    axes.plot(
        *zip(*points, strict=True), ls=style.line, ms=4, mew=0.4, markevery=every,
        label=f"{label}, {voxel_size}", **line,
    )  # fmt: skip
    axes.plot(*best, ms=10, mew=1.2, **line)


def _mark_score_components(
    axes: Axes, labels: Sequence[str], classes: pd.DataFrame, rules: Rules
) -> None:
    """Mark the two components of the score of instance classes."""
    rows = [y for y, label in enumerate(labels) if is_instance(label)]
    instances = [labels[y] for y in rows]
    for (column, name), marker in zip(rules.object_components.items(), "oD", strict=True):
        if instances:
            axes.plot(
                classes.loc[instances, column], rows, ls="", marker=marker, ms=6, mfc="white",
                mec="black", label=name,
            )  # fmt: skip


def _draw_crop_map(
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
    draw_heat_map(axes, labels, crops, values, texts)
    axes.set_title("per crop", fontsize=10)


def _overall_text(scores: Mapping[str, float]) -> str:
    return (
        f"overall {scores['overall_score']:.3f} "
        f"(instances {scores['overall_instance_score']:.3f}, "
        f"semantic {scores['overall_semantic_score']:.3f})"
    )


def _voxel_size_text(size: str) -> str:
    """Format a voxel size for display: "8 nm", or "3.48 × 4 × 4 nm"."""
    sides = size.split()
    return f"{sides[0] if len(set(sides)) == 1 else ' × '.join(sides)} nm"
