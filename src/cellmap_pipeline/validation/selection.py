"""Which source's prediction becomes a label: by validation score, per class and voxel size."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellmap_pipeline.crop_label import CropLabel
from cellmap_pipeline.geometry import apart
from cellmap_pipeline.plan.sources import AVERAGE, in_words, named_sources, origin
from cellmap_pipeline.segmentation.final_labels import segment_crop
from cellmap_pipeline.segmentation.probabilities import Source

log = logging.getLogger(__name__)
COLUMNS = ["label", "voxel_size", "training", "score", "score_at_half", "measured_at", "crops",
           "chosen"]  # fmt: skip


def chosen_sources(
    row: CropLabel,
    sources: Sequence[str],
    select: str | Mapping[str, Any],
    scores: Mapping[str, Any],
) -> list[str]:
    """The sources whose mean makes a row's label: one of them, or several that are averaged.

    One without a validation score for the label is taken only where none has any.

    Parameters
    ----------
    sources
        Those that give the label, in the order of the configuration.
    select
        `submission.select` of the run's configuration.
    scores
        By training or name of predictions, its validation `scores.json`.
    """
    if select == AVERAGE or named_sources(row, select):
        return list(sources)
    # The first of the configuration wins a tie.
    return [max(sources, key=lambda name: score_of(row, name, scores).get("score", -1.0))]


def score_of(row: CropLabel, source: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """What validation found of a source's label at the voxel size nearest to the row's; {} if
    nothing.
    """
    classes = scores.get(origin(source), {}).get("classes", {})
    return nearest(classes.get(row.label, {}).get("voxel_sizes", []), row)


def nearest(found: Sequence[dict[str, Any]], row: CropLabel) -> dict[str, Any]:
    """Of entries by `voxel_size`, the one nearest to a row's; {} where there is none."""
    return min(found, key=lambda e: apart(e["voxel_size"], row.grid.voxel_size), default={})


def selection_table(
    rows: Iterable[tuple[CropLabel, Sequence[str]]],
    select: str | Mapping[str, Any],
    scores: Mapping[str, Any],
) -> list[dict[str, str]]:
    """A line per label, voxel size and source: its validation score and whether it is chosen.

    Parameters
    ----------
    rows
        What is submitted, each with the sources that give it.
    select, scores
        As for `chosen_sources`.
    """
    kinds = {(row.label, row.grid.voxel_size): (row, sources) for row, sources in rows}
    table = []
    for _, (row, sources) in sorted(kinds.items()):
        chosen = chosen_sources(row, sources, select, scores)
        for name in sources:
            found = score_of(row, name, scores)
            table.append(
                {
                    "label": row.label,
                    "voxel_size": in_words(row.grid.voxel_size),
                    "training": name,
                    "score": f"{found['score']:.6f}" if found else "",
                    "score_at_half": f"{found['score_at_half']:.6f}" if found else "",
                    "measured_at": in_words(found["measured_at"]) if found else "",
                    "crops": str(len(found["crops"])) if found else "",
                    "chosen": "yes" if name in chosen else "no",
                }
            )
        if len(sources) > 1 and not any(score_of(row, name, scores) for name in sources):
            log.warning(
                "%s at %s nm: no source has a validation score, %s is taken: name another in "
                "submission.select", row.label, in_words(row.grid.voxel_size), ", ".join(chosen),
            )  # fmt: skip
    return table


def select_map(table: Iterable[Mapping[str, str]]) -> str:
    """The choice as a `select:` map to paste into the configuration, so that only what is chosen
    is predicted.
    """
    chosen: dict[str, dict[str, list[str]]] = {}
    for row in table:
        if row["chosen"] == "yes":
            chosen.setdefault(row["label"], {}).setdefault(row["voxel_size"], []).append(
                row["training"]
            )
    return "select: {" + ", ".join(f"{k}: {_choice(v)}" for k, v in chosen.items()) + "}"


def write_selection(table: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the table as `selection.csv`."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def read_scores(paths: Mapping[str, Path]) -> dict[str, Any]:
    """By name, what the JSON file at a path holds."""
    return {name: json.loads(path.read_text()) for name, path in paths.items()}


def _choice(by_size: Mapping[str, Sequence[str]]) -> str:
    texts = {
        size: names[0] if len(names) == 1 else f"[{', '.join(names)}]"
        for size, names in by_size.items()
    }
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    # One number where it stands for all axes.
    keys = {size: size.split()[0] if len(set(size.split())) == 1 else f"'{size}'" for size in texts}
    return "{" + ", ".join(f"{keys[size]}: {text}" for size, text in texts.items()) + "}"


def segment_chosen(
    row: CropLabel,
    sources: Mapping[str, Source],
    select: str,
    scores: Mapping[str, Any],
    tuned: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    output: Path,
    threads: int = 1,
) -> None:
    """Make the label of a manifest row of the source that scored best, or of the mean of all.

    Parameters
    ----------
    row, output, threads
        As for `segment_crop`.
    sources
        By name, predictions of the label.
    select
        `best` or `average`.
    scores, tuned
        By training, name of predictions or `average`, what validation found.
    own
        By source, settings of the user's for the label.
    """
    chosen = chosen_sources(row, list(sources), select, scores)
    settings: dict[str, Any] = {}
    names = [AVERAGE, *chosen] if len(chosen) > 1 else chosen
    for name in names:
        settings = nearest(tuned.get(origin(name), {}).get(row.label, []), row)
        if settings:
            log.info("%s by %s, with settings found for %s", row.label, ", ".join(chosen), name)
            break
    segment_crop(
        row,
        [sources[name] for name in chosen],
        settings.get("settings", {}),
        own.get(chosen[0], {}),
        output,
        threads,
    )
