"""The labels of test crops that came out best and worst: raw, truth and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.io.labels import LabelVolume
from cellmap_pipeline.io.volumes import Volume
from cellmap_pipeline.report.crops import CELL_INCHES, Panel, draw_panel, extent
from cellmap_pipeline.report.style import drawing

# As many best as worst ones, at most.
CASES = 3


@dataclass(frozen=True)
class Case:
    """A label of a crop with its score, and what it is drawn for: `best` or `worst`."""

    kind: str
    row: CropLabel
    score: float


def best_and_worst(scores: Path, rows: Sequence[CropLabel]) -> list[Case]:
    """The labels with the highest and the lowest scores, of those that the truth holds any of.

    Parameters
    ----------
    scores
        `scores.csv`.
    rows
        Of the manifest, those that were made.
    """
    table = pd.read_csv(scores)
    made = {(f"crop{row.crop}", row.label): row for row in rows}
    scored = table[(table["status"] == "scored") & (table["tp"] + table["fn"] > 0)]
    found = [
        (made[crop, label], float(score))
        for crop, label, score in zip(scored["crop"], scored["label"], scored["score"], strict=True)
        if (crop, label) in made
    ]
    found.sort(key=lambda pair: -pair[1])
    # Where there are few, none is drawn twice.
    best = [pair for pair in found[: min(CASES, (len(found) + 1) // 2)] if pair[1] > 0]
    worst = found[len(best) :][-CASES:]
    return [Case("best", *pair) for pair in best] + [Case("worst", *pair) for pair in worst[::-1]]


def plot_cases(
    cases: Sequence[Case], raws: Mapping[str, Volume], made: Path, truth: Path, path: Path
) -> None:
    """Draw cases one below the other, through the slices with most labelled voxels.

    Parameters
    ----------
    raws
        By dataset.
    made
        Folder of the labels made, `{dataset}/crop{id}/{label}`.
    truth
        Folder of the true labels, `crop{id}/{label}`.
    path
        JPEG to write.

    Raises
    ------
    InputError
        Raw or a label cannot be read.
    """
    ratios = [extent(case.row.grid, 0, 1) / extent(case.row.grid, 0, 2) for case in cases] or [1.0]
    height = sum(ratios) * CELL_INCHES + 0.6 * len(ratios)
    with drawing(path, 3 * CELL_INCHES, height) as figure:
        axes = figure.subplots(len(ratios), 3, squeeze=False, height_ratios=ratios)
        for ax in axes.flat:
            ax.set_axis_off()
        if not cases:
            axes[0, 1].text(0.5, 0.5, "no label was scored", ha="center")
        for line, case in zip(axes, cases, strict=False):
            row = case.row
            labels = {
                name: {row.label: LabelVolume.open(folder / f"crop{row.crop}" / row.label)}
                for name, folder in (("made", made / row.dataset), ("truth", truth))
            }
            panel = Panel(row.grid, [row.label], labels["made"], labels["truth"])
            draw_panel(list(line), raws[row.dataset], panel, with_truth=True)
            line[0].set_title("")
            line[0].set_title(
                f"{case.kind}: {row.label}, crop {row.crop}: {case.score:.3f}",
                loc="left", weight="bold", fontsize=9,
            )  # fmt: skip
