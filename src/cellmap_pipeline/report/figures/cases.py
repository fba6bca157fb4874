"""Figure of the test-crop labels with the best and worst scores: raw, ground truth, prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.figures.crops import CELL_INCHES, Panel, draw_panel, extent_nm
from cellmap_pipeline.report.figures.style import saved_figure

MAX_BEST = MAX_WORST = 3


@dataclass(frozen=True)
class ScoredLabel:
    """A label of a test crop and its score.

    Attributes
    ----------
    kind
        Why the label is shown.
    row
        Row of the manifest.
    score
        Official score.
    """

    kind: Literal["best", "worst"]
    row: CropLabel
    score: float


def best_and_worst(scores: Path, rows: Sequence[CropLabel]) -> list[ScoredLabel]:
    """Find the labels with the highest and lowest scores.

    Labels without any voxels in the ground truth are left out.

    Parameters
    ----------
    scores
        `scores.csv`.
    rows
        Rows of the manifest whose labels were predicted.

    Returns
    -------
    list of ScoredLabel
        Best labels, best first, then worst labels, worst first.
    """
    table = pd.read_csv(scores)
    predicted = {(f"crop{row.crop}", row.label): row for row in rows}
    scored = table[(table["status"] == "scored") & (table["tp"] + table["fn"] > 0)]
    ranked = [
        (predicted[crop, label], float(score))
        for crop, label, score in zip(scored["crop"], scored["label"], scored["score"], strict=True)
        if (crop, label) in predicted
    ]
    ranked.sort(key=lambda pair: -pair[1])
    # With few labels, none is shown both as one of the best and as one of the worst.
    n_best = min(MAX_BEST, (len(ranked) + 1) // 2)
    best = [pair for pair in ranked[:n_best] if pair[1] > 0]
    worst = ranked[len(best) :][-MAX_WORST:]
    return [ScoredLabel("best", *pair) for pair in best] + [
        ScoredLabel("worst", *pair) for pair in worst[::-1]
    ]


def plot_cases(
    cases: Sequence[ScoredLabel],
    raws: Mapping[str, Volume],
    segmentations: Path,
    ground_truth: Path,
    path: Path,
) -> None:
    """Draw labels one below the other, through the slices with the most labeled voxels.

    Parameters
    ----------
    cases
        Labels to draw.
    raws
        Raw volumes by dataset.
    segmentations
        Folder of the predicted labels, `{dataset}/crop{id}/{label}`.
    ground_truth
        Folder of the ground-truth labels, `crop{id}/{label}`.
    path
        JPEG to write.

    Raises
    ------
    InputError
        The raw data or a label cannot be read.
    """
    aspects = [
        extent_nm(case.row.grid, 0, 1) / extent_nm(case.row.grid, 0, 2) for case in cases
    ] or [1.0]
    height = sum(aspects) * CELL_INCHES + 0.6 * len(aspects)
    with saved_figure(path, 3 * CELL_INCHES, height) as figure:
        axes = figure.subplots(len(aspects), 3, squeeze=False, height_ratios=aspects)
        for ax in axes.flat:
            ax.set_axis_off()
        if not cases:
            axes[0, 1].text(0.5, 0.5, "no label was scored", ha="center")
        for row_axes, case in zip(axes, cases, strict=False):
            row = case.row
            predicted, truth = (
                {row.label: LabelVolume.open(folder / f"crop{row.crop}" / row.label)}
                for folder in (segmentations / row.dataset, ground_truth)
            )
            panel = Panel(row.grid, [row.label], predicted, truth)
            draw_panel(list(row_axes), raws[row.dataset], panel, with_truth=True)
            row_axes[0].set_title("")
            row_axes[0].set_title(
                f"{case.kind}: {row.label}, crop {row.crop}: {case.score:.3f}",
                loc="left", weight="bold", fontsize=9,
            )  # fmt: skip
